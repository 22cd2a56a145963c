"""One device in a process of its own, steered through its standard input: `python -m agent.demo.child`.

Decides: commands are carried out one after another, each is answered; the end of the input is the
command to stop, so no device outlives the demo. Whatever else in this process prints goes to
standard error, since standard output belongs to the records.
Assumes standard input and output are pipes to the watcher.
On failure: a device that cannot start says why in one record, exit 2; a command that fails is
answered with its reason; a device that does not stop within STOP_S is left by the process.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.demo.records import (
    Answer,
    Clock,
    Command,
    Digest,
    Failed,
    LineInvalid,
    PublishModel,
    Ready,
    Report,
    Restore,
    Silence,
    Stop,
    StopSensors,
    read_command,
)
from agent.demo.reporter import Reporter
from agent.errors import AgentError
from agent.event_loop import loop_factory
from broker.collector import spare
from broker.errors import FlockmqError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.observer import Observer

__all__ = ["Steered", "main", "serve"]

logger = logging.getLogger(__name__)

STOP_S: Final = 4.0
"""A device stops in well under a second; the watcher kills after a little more than this."""
READ_BYTES: Final = 64 * 1024


class RadioLike(Protocol):
    """What a cut needs of `broker.radio.Radio`."""

    def silence(self, peers: Iterable[str]) -> None:
        """Neither hear nor reach these."""

    def restore(self) -> None:
        """Hear all again."""


class NodeLike(Protocol):
    """What a cut needs of `broker.node.Node`."""

    @property
    def radio(self) -> RadioLike:
        """Its switch."""


class Steered(Protocol):
    """What is steered of `agent.device.Device`."""

    @property
    def node(self) -> NodeLike:
        """Its driver."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End."""

    def stop_sensors(self) -> None:
        """Observe nothing any more."""

    def clock(self) -> int:
        """The hybrid clock's present."""

    def digest(self, clock: int) -> str:
        """The world's digest at a hybrid clock."""

    async def publish_model(self, payload: bytes) -> None:
        """Make a version the fleet's current one."""

    def report(self) -> dict[str, Any]:
        """The device at this moment."""


class _Inbox:
    """Lines from a pipe, as commands in order."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    async def next(self) -> Command:
        """The next command."""
        return await self._commands.get()

    def end(self) -> None:
        """Read no more; the rest is the command to stop."""
        self._loop.remove_reader(self._descriptor)
        self._commands.put_nowait(Stop())

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.end()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                self._commands.put_nowait(read_command(line))
            except LineInvalid as error:
                logger.warning("ignored: %s", error)


async def serve(make: Callable[[Observer], Steered], commands: int, records: int) -> int:
    """Run a device until it is told to stop.

    Args:
        make: Makes the device, which is not started yet.
        commands: Descriptor to read from.
        records: Descriptor to write to.

    Returns:
        The exit status.
    """
    inbox = _Inbox(commands)
    reporter = Reporter(records, inbox.end)
    try:
        device = make(reporter)
        await device.start()
        spare()
    except (AgentError, FlockmqError) as error:
        reporter.tell(Failed(str(error)))
        reporter.flush()
        return 2
    reporter.tell(Ready(time.monotonic_ns()))
    while True:
        command = await inbox.next()
        if isinstance(command, Stop):
            break
        reporter.tell(await _carry_out(command, device))
    try:
        async with asyncio.timeout(STOP_S):
            await device.stop()
    except TimeoutError:
        logger.warning("did not stop within %s s", STOP_S)
    reporter.flush()
    return 0


async def _carry_out(command: Command, device: Steered) -> Answer:
    value: Any = None
    problem: str | None = None
    try:
        match command:
            case Silence(peers=peers):
                device.node.radio.silence(peers)
            case Restore():
                device.node.radio.restore()
            case PublishModel(signed=signed):
                await device.publish_model(signed.encode())
            case StopSensors():
                device.stop_sensors()
            case Report():
                value = device.report()
            case Clock():
                value = device.clock()
            case Digest(clock=clock):
                value = device.digest(clock)
            case Stop():
                raise AssertionError("the end is not a command to carry out")
    except (AgentError, FlockmqError) as error:
        problem = str(error)
    return Answer(command.number, time.monotonic_ns(), value, problem)


def main() -> int:
    """Run the device of a device.toml, watched through standard input and output."""
    parser = argparse.ArgumentParser(prog="agent.demo.child")
    parser.add_argument("--config", type=Path, required=True)
    path: Path = parser.parse_args().config
    records = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    from agent.config import load  # the process must be able to say that these fail
    from agent.device import Device

    def make(observer: Observer) -> Device:
        return Device(load(path), observer)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(serve(make, sys.stdin.fileno(), records))


if __name__ == "__main__":
    sys.exit(main())
