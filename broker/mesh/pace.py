"""How often, and with how many neighbours, this device compares: more while things go missing, less while they do not.

Decides the interval and the fan-out of digests within the bounds in limits.py. A hole that only a digest brought to
light halves the interval and adds a link; a round without one stretches it by an eighth and takes a link away; a long
queue stretches it to the bound, since digests would stand in that queue's way.

Assumes that what follows a lost bundle shows its loss anyway; digests are for the last bundle before a silence.
"""

from __future__ import annotations

from broker.mesh.limits import (
    DIGEST_LINKS_MAX,
    DIGEST_MS,
    DIGEST_MS_MAX,
    DIGEST_MS_MIN,
    PRESSED_BYTES,
)

__all__ = ["Pace"]


class Pace:
    """The rhythm of one device's digests."""

    __slots__ = ("_found", "interval_ms", "links")

    def __init__(self) -> None:
        self.interval_ms = DIGEST_MS
        self.links = 1
        self._found = 0

    def adapt(self, found: int, backlog_bytes: int) -> None:
        """Draw the conclusion of a round: holes found by digests so far, and what is queued for the slowest."""
        lost, self._found = found > self._found, found
        if backlog_bytes > PRESSED_BYTES // 4:
            self.interval_ms, self.links = DIGEST_MS_MAX, 1
        elif lost:
            self.interval_ms = max(DIGEST_MS_MIN, self.interval_ms // 2)
            self.links = min(DIGEST_LINKS_MAX, self.links + 1)
        else:
            self.interval_ms = min(DIGEST_MS_MAX, self.interval_ms + self.interval_ms // 8)
            self.links = max(1, self.links - 1)
