"""The two ends of a row, the same for every system: one publishes, one reduces.

Decides pacing. Flat out, a publisher hands over TURN updates, lets its system work, and waits while more than its
window of updates are not reduced yet: nobody's queue grows without bound, nobody loses for having been outrun. At a
rate, each update is handed over at its own moment and stamped just before.
"""

from __future__ import annotations

import abc
import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.role import Part
from bench.stamps import Stamps
from bench.traffic import Reducer, updates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Publishing", "Reducing"]

TURN: Final = 250
"""Updates between two looks at the loop; few enough to keep a loop turn near a millisecond."""
WINDOW: Final = 16_384
"""On their way at most; 2.5 MB. More only lengthens queues, in every system."""
POLL_S: Final = 0.0005
STALLED_S: Final = 15.0
"""Without progress for so long, what is missing is lost."""


class Publishing(Part, abc.ABC):
    """The near end."""

    window = WINDOW
    """Updates on their way at most; a system that does better with fewer says so."""

    async def open(self, *, stamps: str, **settings: Any) -> Any:
        """Connect; `stamps` is the shared file."""
        self.stamps = Stamps(Path(stamps))
        return await self.connect(**settings)

    connect: Callable[..., Awaitable[Any]]
    """Makes it ready to send; takes the system's settings."""

    @abc.abstractmethod
    def send(self, topic: str, payload: bytes) -> None:
        """Publish one message."""

    async def turn(self) -> None:
        """Let what was sent leave."""
        await asyncio.sleep(0)

    async def prepare(self, *, first: int, count: int) -> None:
        """Make a window of updates, before any clock starts."""
        self._window = updates(first, count)

    async def publish(self, *, rate: float | None) -> dict[str, int]:
        """Publish the window: `rate` a second, or flat out. Returns when it began."""
        started_ns = time.monotonic_ns()
        if rate is None:
            await self._flat_out(self._window)
        else:
            await self._paced(self._window, rate)
        return {"started_ns": started_ns}

    async def _flat_out(self, window: list[tuple[str, bytes]]) -> None:
        send, stamps = self.send, self.stamps
        for sent in range(0, len(window), TURN):
            waits_until_s = time.monotonic() + STALLED_S
            while sent - stamps.count > self.window:
                if time.monotonic() > waits_until_s:
                    return
                await asyncio.sleep(POLL_S)
            for topic, payload in window[sent : sent + TURN]:
                send(topic, payload)
            await self.turn()

    async def _paced(self, window: list[tuple[str, bytes]], rate: float) -> None:
        started_s = time.monotonic()
        for number, (topic, payload) in enumerate(window):
            wait_s = started_s + number / rate - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self.stamps.published[number] = time.monotonic_ns()
            self.send(topic, payload)


class Reducing(Part):
    """The far end."""

    async def open(self, *, stamps: str, **settings: Any) -> Any:
        """Connect; `stamps` is the shared file."""
        self.stamps = Stamps(Path(stamps))
        self.reducer = Reducer(self.stamps)
        return await self.connect(**settings)

    connect: Callable[..., Awaitable[Any]]
    """Makes it ready to receive; takes the system's settings."""

    async def begin(self, *, stamping: bool) -> None:
        """Begin a window."""
        self.reducer.begin(stamping=stamping)

    async def wait_for(self, *, count: int) -> None:
        """Return when so many were reduced, or when nothing comes any more."""
        seen, at_s = self.stamps.count, time.monotonic()
        while self.stamps.count < count and time.monotonic() - at_s < STALLED_S:
            await asyncio.sleep(0.005)
            if self.stamps.count != seen:
                seen, at_s = self.stamps.count, time.monotonic()

    async def judge(self, *, first: int, count: int) -> dict[str, int | str | None]:
        """What is wrong with the window, and when its last update was reduced."""
        return self.reducer.judge(first, count)
