"""The fleet in processes: starts it, reads it, asks it, does the faults to it, ends it.

Decides how a fault is made: a kill is SIGKILL to the device's process alone; a cut tells every
device to silence its neighbours on the other side, all at once, and is over when the last one has
acknowledged to hear them again. Records go to a sink as they are read, every POLL_S: a timer
rather than readiness, since reading each line as it comes would cost the devices a core.
Who looks on may kill a device, too, where that is allowed: it counts as a fault, and the device starts again OUTAGE_S
later.
Assumes a directory of its own for configurations, states and logs.
On failure: a device that cannot start or ends unasked is an exception out of `watch`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

from agent.demo.identities import DESK, identity_of, make_fleet
from agent.demo.operator import DemoOperator
from agent.demo.plan import CUT_OFF, KILLED, MODEL, OPERATOR, SITE, DevicePlan, neighbours_of
from agent.demo.process import DeviceProcess
from agent.demo.records import (
    Answer,
    Clock,
    Command,
    Digest,
    Failed,
    Published,
    PublishModel,
    Report,
    Restore,
    Silence,
    StopSensors,
)
from agent.demo.scenario import OUTAGE_S, Act
from broker.errors import FlockmqError

if TYPE_CHECKING:
    from pathlib import Path

    from agent.demo.ledger import Fault, Ledger
    from agent.demo.recorder import Recorder

__all__ = ["CannotStart", "DeviceEnded", "Fleet"]

POLL_S: Final = 0.02


class CannotStart(FlockmqError):
    """A device cannot start; the text is what it says of that."""


class DeviceEnded(FlockmqError):
    """A device ended although nobody told it to."""


class Fleet:
    """Five processes.

    Args:
        plans: Who there is.
        directory: Everything that is written goes there.
        recorder: Takes what the devices tell.
        speed: Trace seconds per second.
        started_ms: Wall time at which the trace was at its second 0.
        revive: Whether a device that somebody else kills starts again.
    """

    def __init__(
        self,
        plans: tuple[DevicePlan, ...],
        directory: Path,
        recorder: Recorder,
        *,
        speed: float,
        started_ms: int,
        revive: bool = False,
    ) -> None:
        self._recorder = recorder
        self._ledger: Ledger = recorder.ledger
        self._directory = directory
        self._processes: dict[str, DeviceProcess] = {}
        self._names = tuple(plan.name for plan in plans)
        self._fault: Fault | None = None
        self._revive = revive
        self._killed_by_others: dict[str, Fault] = {}
        """Who is to start again OUTAGE_S after the fault began."""
        make_fleet(directory, SITE, self._names)
        self._operator = DemoOperator(identity_of(directory, DESK), SITE)
        for plan in plans:
            state = directory / plan.name
            state.mkdir()
            identity = identity_of(directory, plan.name)
            toml = plan.toml(state, identity, speed=speed, started_ms=started_ms)
            self._config(plan.name).write_text(toml)

    @property
    def fault(self) -> str | None:
        """The kind of the fault that is going on."""
        return None if self._fault is None else self._fault.kind

    @property
    def killed(self) -> frozenset[str]:
        """Who is down."""
        return frozenset(self._names) - self._processes.keys()

    @property
    def all_back(self) -> bool:
        """Whether those whom somebody else has killed are up again, and all others that were started."""
        return not self._killed_by_others and self._processes.keys() <= self._recorder.ready

    def pids(self) -> dict[str, int]:
        """The processes that live, by device."""
        return {name: process.pid for name, process in self._processes.items()}

    # Life.

    def start(self) -> None:
        """Start all at once."""
        for name in self._names:
            self._start(name)

    async def watch(self) -> None:
        """Read what the devices tell, for ever.

        Raises:
            CannotStart: One cannot.
            DeviceEnded: One did.
        """
        while True:
            processes = list(self._processes.values())
            told = [(process.name, record) for process in processes for record in process.drain()]
            # What was published first, since others have it before this device's line is read.
            told.sort(key=lambda item: not isinstance(item[1], Published))
            for name, record in told:
                if isinstance(record, Failed):
                    raise CannotStart(f"{name} cannot start: {record.reason}")
                self._recorder.record(name, record)
            for process in processes:
                if process.was_killed and self._revive:
                    self._killed_by_others[process.name] = self._bury(process.name)
                elif process.ended_unasked:
                    raise DeviceEnded(f"{process.name} has ended: {process.last_words()}")
            self._bring_back(time.monotonic_ns())
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """End all; whatever does not end by itself is killed."""
        processes = list(self._processes.values())
        try:
            for process in processes:
                process.tell_to_stop()
            await asyncio.gather(*(process.wait_stopped() for process in processes))
        finally:
            for process in processes:
                process.bury()

    # What can be asked and told.

    async def publish_model(self, device: str, version: str) -> None:
        """Be an operator at that device."""
        signed = self._operator.signed(MODEL, version).decode()
        await self._processes[device].ask(PublishModel, signed=signed)

    async def stop_sensors(self) -> None:
        """Observe nothing any more."""
        await self._ask_all(StopSensors)

    async def reports(self) -> dict[str, dict[str, Any]]:
        """What each device that is up says of itself; one that is killed meanwhile says nothing."""
        up = [p for name, p in self._processes.items() if name in self._recorder.ready]
        answers = await asyncio.gather(*(p.ask(Report) for p in up), return_exceptions=True)
        return {
            process.name: answer.value
            for process, answer in zip(up, answers, strict=True)
            if isinstance(answer, Answer)
        }

    async def digests(self) -> dict[str, str]:
        """What each device has, at one hybrid clock that none of them is beyond."""
        clocks = await self._ask_all(Clock)
        clock = max(answer.value for answer in clocks.values())
        answers = await self._ask_all(Digest, clock=clock)
        return {name: answer.value for name, answer in answers.items()}

    # Faults.

    async def perform(self, act: Act) -> None:
        """Do this to the fleet."""
        match act:
            case Act.KILL:
                self._fault = self._bury(KILLED)
            case Act.START_AGAIN:
                self._over(time.monotonic_ns())
                self._start(KILLED)
            case Act.NEW_MODEL:
                await self.publish_model(OPERATOR, "2")
            case Act.CUT:
                self._fault = self._ledger.cut(CUT_OFF, time.monotonic_ns())
                await asyncio.gather(*map(self._silence, self._processes.values()))
            case Act.HEAL:
                answers = await self._ask_all(Restore)
                self._over(max(answer.at_ns for answer in answers.values()))

    def _start(self, name: str) -> None:
        log = self._directory / f"{name}.log"
        self._processes[name] = DeviceProcess(name, self._config(name), log)

    def _bury(self, name: str) -> Fault:
        process = self._processes.pop(name)
        begin_ns = time.monotonic_ns()
        for record in process.kill():
            self._recorder.record(name, record)
        self._recorder.forget(name)
        return self._ledger.killed(name, begin_ns)

    def _bring_back(self, now_ns: int) -> None:
        """Start those again whom somebody else has killed, when it is time."""
        for name, fault in list(self._killed_by_others.items()):
            if now_ns - fault.window.begin_ns >= OUTAGE_S * 1e9:
                del self._killed_by_others[name]
                self._ledger.over(fault, now_ns)
                self._start(name)

    def _over(self, at_ns: int) -> None:
        assert self._fault is not None, "no fault is going on"
        self._ledger.over(self._fault, at_ns)
        self._fault = None

    async def _silence(self, process: DeviceProcess) -> None:
        side = process.name in CUT_OFF
        peers = tuple(p for p in neighbours_of(process.name) if (p in CUT_OFF) != side)
        await process.ask(Silence, peers=peers)

    async def _ask_all(self, make: type[Command], **fields: Any) -> dict[str, Answer]:
        processes = list(self._processes.items())
        answers = await asyncio.gather(*(process.ask(make, **fields) for _, process in processes))
        return {name: answer for (name, _), answer in zip(processes, answers, strict=True)}

    def _config(self, name: str) -> Path:
        return self._directory / f"{name}.toml"
