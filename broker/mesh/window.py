"""Which numbers of a row have come, so that a copy is told from news: the newest, and a bit for each before it.

Decides how far back copies are told: WINDOW_NUMBERS. What is to become of a number farther back is for others to say.
Assumes numbers from 1. A number far ahead, forged or not, costs no more than any other.

Source: the anti-replay window of IPsec (RFC 4303, section 3.4.3).
"""

from __future__ import annotations

from typing import Final

from broker.mesh.limits import WINDOW_NUMBERS

__all__ = ["Window"]

_MASK: Final = (1 << WINDOW_NUMBERS) - 1


class Window:
    """Of one row of numbers."""

    __slots__ = ("_bits", "newest")

    def __init__(self) -> None:
        self.newest = 0
        self._bits = 0

    def reaches(self, number: int) -> bool:
        """Whether it can tell a copy at this number."""
        return self.newest - number < WINDOW_NUMBERS

    def has(self, number: int) -> bool:
        """Whether this number has come, as far as it reaches."""
        return number <= self.newest and bool(self._bits >> (self.newest - number) & 1)

    def add(self, number: int) -> None:
        """It has come now."""
        ahead = number - self.newest
        if ahead <= 0:
            self._bits |= 1 << -ahead
            return
        # A number far ahead must not make an integer of as many bits.
        kept = self._bits << ahead if ahead < WINDOW_NUMBERS else 0
        self.newest, self._bits = number, (kept | 1) & _MASK
