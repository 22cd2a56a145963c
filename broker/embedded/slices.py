"""How long slow work may take within one turn of the event loop, of all connections together.

Decides: whether such work goes on now or in a later turn, one connection after the other. Assumes: an asyncio loop,
whose `call_soon` comes before what is read next; work that looks at the time often. On failure: work that is called
again for a connection that is gone has to see that itself.

A slice bounds how long others wait within a turn, and not what is left to them: turns of nothing but slices follow each
other. Where somebody else shares the loop, work that waits has its next slice only after a pause.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from broker.embedded.limits import SLICE_PAUSE_S


class Slices:
    """One slice a turn; after one that did not suffice a pause, where `is_shared` says that others need the loop."""

    def __init__(self, slice_s: float, is_shared: Callable[[], bool] = lambda: False) -> None:
        self._slice_s = slice_s
        self._is_shared = is_shared
        self._ends_s: float | None = None  # of this turn's, once somebody has asked
        self._waiting: deque[Callable[[], None]] = deque()

    def is_over(self) -> bool:
        """Tell whether this turn's slice is used up."""
        now_s = time.monotonic()  # uvloop's own stands still within a turn
        if self._ends_s is None:
            self._ends_s = now_s + self._slice_s
            asyncio.get_running_loop().call_soon(self._turn_ended)
        return now_s >= self._ends_s

    def later(self, work: Callable[[], None]) -> None:
        """Have work called in a later turn; `is_over` was true."""
        self._waiting.append(work)

    def _turn_ended(self) -> None:
        if self._waiting and self._is_shared():
            asyncio.get_running_loop().call_later(SLICE_PAUSE_S, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        self._ends_s = None
        while self._waiting and not self.is_over():
            self._waiting.popleft()()
