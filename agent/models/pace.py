"""How fast a pull may ask for chunks: a bucket that fills with time.

Decides when the next chunks may be asked for. Empty, it gives nothing until there is enough for BURST_CHUNKS, so that a
pull that is held to the pace asks seldom and for some at a time. It holds little, so a device that is busy with other
things, and comes late to ask, falls behind and does not catch up. No clock: `now_ns` is an argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.models.limits import BURST_CHUNKS, PACE_BYTES_PER_S, PACE_CHUNKS_MAX, PACE_S_MAX

if TYPE_CHECKING:
    from agent.models.content import Content

__all__ = ["Pace"]

_S: Final = 1_000_000_000


class Pace:
    """The pace of one pull. Counts in nanoseconds of filling."""

    __slots__ = ("_chunk_ns", "_empty_ns", "next_ns")

    def __init__(self, content: Content, now_ns: int) -> None:
        bytes_per_s = max(PACE_BYTES_PER_S, content.size_bytes // PACE_S_MAX)
        self._chunk_ns = content.chunk_bytes * _S // bytes_per_s
        self._empty_ns = now_ns - BURST_CHUNKS * self._chunk_ns
        """When the bucket was empty; it has been filling since."""
        self.next_ns = now_ns
        """When there will be something again."""

    def chunks(self, now_ns: int) -> int:
        """How many chunks may be asked for now."""
        if now_ns < self.next_ns:
            return 0
        self._empty_ns = max(self._empty_ns, now_ns - PACE_CHUNKS_MAX * self._chunk_ns)
        return (now_ns - self._empty_ns) // self._chunk_ns

    def take(self, chunks: int, now_ns: int) -> None:
        """So many were asked for."""
        self._empty_ns += chunks * self._chunk_ns
        if now_ns - self._empty_ns < self._chunk_ns:
            self.next_ns = self._empty_ns + BURST_CHUNKS * self._chunk_ns
