"""How long slow work may take within one turn of the event loop, of all connections together.

Decides: whether such work goes on now or in a later turn, one connection after the other. Assumes: an asyncio loop,
whose `call_soon` comes before what is read next; work that looks at the time often. On failure: work that is called
again for a connection that is gone has to see that itself.

A slice bounds how long others wait within a turn, and not what is left to them: turns of nothing but slices follow each
other. Where somebody else shares the loop, work that waits has its next slice only after a pause.

A look at the time, and word of the turn's end, cost as much as a small packet, and come once more before the loop may
sleep. So the first few small reads go unseen.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from broker.embedded.limits import SLICE_PAUSE_S

_UNSEEN_BYTES: Final = 2048
"""Of reads between two looks. Clients' are 0.1 ms then, and a neighbour's small signed bundles 1 ms (measured)."""
_READ_BYTES: Final = 256
"""What a read counts for beside its length, so that eight go unseen at most. Guess."""


class Slices:
    """One slice a turn; after one that did not suffice a pause, where `is_shared` says that others need the loop."""

    def __init__(self, slice_s: float, is_shared: Callable[[], bool] = lambda: False) -> None:
        self._slice_s = slice_s
        self._is_shared = is_shared
        self._ends_s: float | None = None  # of this turn's, once somebody has asked
        self._unseen_bytes = 0  # since the last look
        self._waiting: deque[Callable[[], None]] = deque()

    def is_over(self) -> bool:
        """Tell whether this turn's slice is used up."""
        self._unseen_bytes = 0
        now_s = time.monotonic()  # uvloop's own stands still within a turn
        if self._ends_s is None:
            self._ends_s = now_s + self._slice_s
            asyncio.get_running_loop().call_soon(self._turn_ended)
        return now_s >= self._ends_s

    def is_over_for(self, read_bytes: int) -> bool:
        """Tell it before what was read is handled: without a look for few small ones, unless a slice has begun."""
        self._unseen_bytes += _READ_BYTES + read_bytes
        begun = self._ends_s is not None or self._unseen_bytes > _UNSEEN_BYTES
        return begun and self.is_over()

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
