"""What devices said that is not theirs to say: counted by origin, and the last of it in words.

Assumes that origins may be invented where tags prove only that somebody of the fleet made a bundle, so names are
bounded; what finds no room is counted together.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from broker.mesh.limits import REFUSED_ORIGINS_MAX

__all__ = ["OTHERS", "Refusals"]

OTHERS: Final = "other devices"
"""No device can be called so."""


class Refusals:
    """Of one device."""

    __slots__ = ("by_origin", "last")

    def __init__(self) -> None:
        self.by_origin: Counter[str] = Counter()
        self.last = ""

    def note(self, origin: str, topic: str, count: int = 1) -> None:
        """So many messages of an origin do not count; `topic`: that of one of them."""
        known = origin in self.by_origin or len(self.by_origin) < REFUSED_ORIGINS_MAX
        self.by_origin[origin if known else OTHERS] += count
        self.last = f"{topic} by {origin}"
