"""One run of the fleet: start, link, play, stop sensing, wait for what is under way, compare.

Decides: the run begins when every link is up at both ends for the first time, and its figures are
of what happens from then on, the book excepted, which counts everything. The first model version
is published as soon as its device is ready. At the end the sensors stop, and all deliveries have
SETTLE_S to come in and all worlds to agree; digests are compared at one hybrid clock.
Assumes a fleet that has not been started. On failure: links that do not come up within LINK_S are
a `NotLinked`; whatever else goes wrong is an exception out of `go`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final, Protocol

from agent.demo.plan import DEVICES, LINKS, WATCHED
from agent.demo.scenario import Act, play
from agent.demo.table import Board, look_inside
from agent.demo.usage import Usage
from broker.errors import FlockmqError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.demo.fleet import Fleet
    from agent.demo.recorder import Recorder
    from agent.demo.result import Outcome
    from agent.demo.scenario import Step

__all__ = ["NotLinked", "Run", "Screen"]

LINK_S: Final = 30.0
"""Five interpreters on the slowest machine we know need ten."""
SETTLE_S: Final = 10.0
"""Ten times what a healed fleet takes to agree (`heal` of docs/bench.md): beyond it something is wrong. Guess."""
PULSE_S: Final = 0.5
"""Between looks at links, memory and screen."""
LOOK_S: Final = 0.02
"""Between looks at whether all has arrived: what it adds to a time that is measured."""


class NotLinked(FlockmqError):
    """The devices did not find each other."""


class Screen(Protocol):
    """Where a run shows itself."""

    wants_reports: bool
    """Whether the devices shall be asked for reports."""

    def say(self, text: str) -> None:
        """One line of what happens."""

    def show(self, board: Board, now_ns: int) -> None:
        """Everything, twice a second."""


class Run:
    """A run.

    Args:
        fleet: Not started.
        recorder: What the fleet tells.
        screen: Where it is shown.
        steps: What happens when.
        seconds: How long; None: until cancelled.
        outcome: Filled in.
        port: Of the device that people watch.
    """

    def __init__(
        self,
        fleet: Fleet,
        recorder: Recorder,
        screen: Screen,
        *,
        steps: tuple[Step, ...],
        seconds: float | None,
        outcome: Outcome,
        port: int,
    ) -> None:
        self._fleet = fleet
        self._recorder = recorder
        self._screen = screen
        self._steps = steps
        self._seconds = seconds
        self._outcome = outcome
        self._usage = Usage()
        self._board = Board(port, recorder)

    async def go(self) -> None:
        """Do it all, except ending the fleet."""
        self._fleet.start()
        look = look_inside(self._board.port)
        self._screen.say(f"devices start and find each other; look inside: {look}")
        work = asyncio.create_task(self._work())
        tasks = {work, *map(asyncio.create_task, (self._fleet.watch(), self._pulse()))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: task is work):
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def perform(self, act: Act) -> None:
        """A step of the scenario has come; it waits until those are back whom somebody else has killed."""
        await self._until(lambda: self._fleet.all_back)
        self._usage.sample(self._fleet.pids())
        self._screen.say(f"{self._elapsed_s():5.1f} s  {act.value}")
        await self._fleet.perform(act)
        following = self._steps.index(next(s for s in self._steps if s.act is act)) + 1
        self._board.coming = self._steps[following] if following < len(self._steps) else None

    async def _work(self) -> None:
        await self._until(lambda: WATCHED in self._recorder.ready)
        await self._fleet.publish_model(WATCHED, "1")
        await self._until(lambda: len(self._recorder.ledger.links.up()) == len(LINKS))
        self._begin()
        await play(self._steps, self, self._wait_until)
        if self._seconds is None:
            await asyncio.get_running_loop().create_future()  # until cancelled
        else:
            await self._wait_until(self._seconds)
            await self._settle()

    def _begin(self) -> None:
        now_ns = time.monotonic_ns()
        self._recorder.ledger.linked(now_ns)
        self._recorder.start_recent()
        self._usage.begin(self._fleet.pids())
        self._outcome.began_ns = self._board.began_ns = now_ns
        self._board.coming = self._steps[0] if self._steps else None
        self._screen.say(f"{0:5.1f} s  {len(DEVICES)} devices, {len(LINKS)} links")

    async def _settle(self) -> None:
        outcome, ledger = self._outcome, self._recorder.ledger
        await self._fleet.stop_sensors()
        outcome.ended_ns = time.monotonic_ns()
        self._usage.sample(self._fleet.pids())
        outcome.rss_mb, outcome.cpu_percent = self._usage.rss_mb, self._usage.cpu_percent()
        self._screen.say(f"{self._elapsed_s():5.1f} s  sensors stopped")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self._agreed()
        outcome.digests = await self._fleet.digests()
        outcome.now_ns = time.monotonic_ns()
        ledger.finish(outcome.now_ns)

    async def _agreed(self) -> None:
        """Until everything has arrived, all run the same version and all have the same."""
        while True:
            active = self._recorder.active
            alike = set(active) == set(DEVICES) and len({a.version for a in active.values()}) == 1
            if alike and not self._recorder.ledger.missing():
                digests = await self._fleet.digests()
                if len(set(digests.values())) == 1:
                    return
            await asyncio.sleep(LOOK_S)

    async def _pulse(self) -> None:
        """What is due all the time."""
        while True:
            ledger = self._recorder.ledger
            for fault in ledger.settle(time.monotonic_ns()):
                healed_ms = ledger.healed_ms(fault)
                self._screen.say(
                    f"{self._elapsed_s():5.1f} s  {fault.kind}: healed in {healed_ms:.0f} ms"
                )
            self._usage.sample(self._fleet.pids())
            if self._screen.wants_reports:
                self._board.reports = await self._fleet.reports()
                self._board.fault, self._board.killed = self._fleet.fault, self._fleet.killed
                self._screen.show(self._board, time.monotonic_ns())
            await asyncio.sleep(PULSE_S)

    async def _until(self, condition: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(LINK_S):
                while not condition():  # noqa: ASYNC110 - what is waited for comes by a timer too
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            up = self._recorder.ledger.links.up()
            missing = [f"{a} - {b}" for a, b in LINKS if tuple(sorted((a, b))) not in up]
            what = f"no link {', '.join(missing)}" if missing else "not all devices are back"
            raise NotLinked(f"{what} within {LINK_S:g} s; is this machine very busy?") from None

    async def _wait_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self._elapsed_s()))

    def _elapsed_s(self) -> float:
        return (time.monotonic_ns() - self._outcome.began_ns) / 1e9
