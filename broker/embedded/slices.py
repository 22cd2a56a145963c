"""How long slow work may take within one turn of the event loop, of all connections together.

Decides: whether such work goes on now or in a later turn, one connection after the other. Assumes: an asyncio loop,
whose `call_soon` comes before what is read next; work that looks at the time often. On failure: work that is called
again for a connection that is gone has to see that itself.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable


class Slices:
    """One slice a turn."""

    def __init__(self, slice_s: float) -> None:
        self._slice_s = slice_s
        self._ends_s: float | None = None  # of this turn's, once somebody has asked
        self._waiting: deque[Callable[[], None]] = deque()

    def is_over(self) -> bool:
        """Tell whether this turn's slice is used up."""
        now_s = time.monotonic()  # uvloop's own stands still within a turn
        if self._ends_s is None:
            self._ends_s = now_s + self._slice_s
            asyncio.get_running_loop().call_soon(self._next_turn)
        return now_s >= self._ends_s

    def later(self, work: Callable[[], None]) -> None:
        """Have work called in a later turn; `is_over` was true."""
        self._waiting.append(work)

    def _next_turn(self) -> None:
        self._ends_s = None
        while self._waiting and not self.is_over():
            self._waiting.popleft()()
