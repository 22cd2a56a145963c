"""When each message was published and reduced, in memory that two processes share.

Both stamps are of CLOCK_MONOTONIC, which all processes of a machine share. The reducer's count is what keeps a
publisher that goes flat out from running ahead: the same window for every system.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["STAMPS_MAX", "Stamps"]

STAMPS_MAX: Final = 32 * 1024
"""Messages in one window of latency; 2,000 a second for 16 s."""
_WORD_BYTES: Final = 8


class Stamps:
    """Two arrays of monotonic nanoseconds and a count.

    Args:
        path: The shared file; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(_WORD_BYTES * (1 + 2 * STAMPS_MAX))
            self._memory = mmap.mmap(file.fileno(), 0)
        words = memoryview(self._memory).cast("q")
        self._count = words[:1]
        self.published = words[1 : 1 + STAMPS_MAX]
        self.reduced = words[1 + STAMPS_MAX :]

    @property
    def count(self) -> int:
        """How many messages of the window were reduced."""
        return self._count[0]

    @count.setter
    def count(self, value: int) -> None:
        self._count[0] = value

    def latencies_ms(self, count: int) -> list[float]:
        """From publish to reduced, of the window's first `count` messages."""
        return [(self.reduced[i] - self.published[i]) / 1e6 for i in range(count)]
