"""How long slow work may take within one turn of the event loop, of all connections together.

Decides: whether such work goes on now or in a later turn, one connection after the other; and how long that is. What
is read has to be sealed, stored and written at the end of the turn, which may take several times as long as to read it
(a client on `#` that floods, and twenty that get it). So a slice that was used up, and was dear to finish, is shorter
the next time, until both together keep to what a turn may take.

Assumes: an asyncio loop, whose `call_soon` comes before what is read next; work that looks at the time often. On
failure: work that is called again for a connection that is gone has to see that itself.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

TURN_OVER_SLICE: Final = 1.5
"""How much longer than the full slice a turn may take, its end included. Guess: what is small to read costs about half
as much again at the end."""
SHORTEST: Final = 1 / 8
"""Of the full slice. A few dozen messages: with fewer, each would pay for a turn of its own."""


class Slices:
    """One slice a turn, of `slice_s` at most."""

    def __init__(self, slice_s: float) -> None:
        self.slice_s = self._longest_s = slice_s
        self._ends_s: float | None = None  # of this turn's, once somebody has asked
        self._used_up = False  # since the last turn ended
        self._waiting: deque[Callable[[], None]] = deque()

    def is_over(self) -> bool:
        """Tell whether this turn's slice is used up."""
        now_s = time.monotonic()  # uvloop's own stands still within a turn
        if self._ends_s is None:
            self._ends_s = now_s + self.slice_s
            asyncio.get_running_loop().call_soon(self._next_turn)
        over = now_s >= self._ends_s
        self._used_up = self._used_up or over
        return over

    def later(self, work: Callable[[], None]) -> None:
        """Have work called in a later turn; `is_over` was true."""
        self._waiting.append(work)

    def finished_in(self, seconds: float) -> None:
        """Learn how long it took to finish what was begun in this turn."""
        if self._used_up:
            self._used_up = False
            share = self.slice_s / (self.slice_s + seconds)
            wanted_s = TURN_OVER_SLICE * self._longest_s * share
            shortest_s = SHORTEST * self._longest_s
            self.slice_s = min(self._longest_s, max(shortest_s, wanted_s))

    def _next_turn(self) -> None:
        self._ends_s = None
        while self._waiting and not self.is_over():
            self._waiting.popleft()()
