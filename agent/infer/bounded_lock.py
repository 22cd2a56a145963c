"""A lock for which not too many wait: one caller at a time, in the order in which they came.

Decided here: who comes when enough wait already is refused, since each that waits has features that grow old.
Assumed: one event loop. A class, and not a generator with a decorator, which costs each inference 2 us (measured).
Failure: `Busy`.
"""

from __future__ import annotations

import asyncio

from agent.infer.records import Busy

__all__ = ["BoundedLock"]


class BoundedLock:
    """Use `async with`, which raises Busy.

    Args:
        waiting_max: How many may wait beside the one that has it.

    Attributes:
        unbounded: The lock itself, for who must not be refused.
    """

    def __init__(self, waiting_max: int) -> None:
        self.unbounded = asyncio.Lock()
        self._waiting = 0
        self._waiting_max = waiting_max

    async def __aenter__(self) -> None:
        if self._waiting >= self._waiting_max:
            raise Busy(f"{self._waiting} callers are waiting already")
        self._waiting += 1
        try:
            await self.unbounded.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self.unbounded.release()
