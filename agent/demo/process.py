"""A device's process, from outside: start, read, command, kill, end.

Decides: each process leads a session of its own, so Ctrl-C reaches the watcher only, and at the
end whatever the device left behind is killed with it. Its standard error goes to a file beside
its state, from which the last line is quoted when it ends unasked.
Assumes one event loop; `drain` is called often and never blocks.
On failure: a process that ends without having been told to is told apart by `ended_unasked`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from agent.demo.records import Answer, Command, Record, Stop, read_records, write_command
from broker.errors import FlockmqError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CommandFailed", "DeviceProcess"]

PIPE_BYTES: Final = 1024 * 1024
"""What a device may tell before it is read: the rebuild of a minute, ten times over."""
READ_BYTES: Final = 256 * 1024
"""At once: a quarter of that pipe, so that whoever reads soon comes back to the screen. Guess."""
ANSWER_S: Final = 5.0
"""To a command, which takes a device milliseconds: that long only where it is stuck. Guess."""
STOP_S: Final = 5.0
"""A little more than a device takes at most."""


class CommandFailed(FlockmqError):
    """A device could not do what it was told, or did not answer."""


class DeviceProcess:
    """One life of a device.

    Args:
        name: The device.
        config: Its device.toml.
        log: Where its standard error goes, appended.
    """

    def __init__(self, name: str, config: Path, log: Path) -> None:
        self.name = name
        self._log = log
        self._rest = b""
        self._number = 0
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._told_to_end = False
        self._closed = False
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", "agent.demo.child", "--config", str(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,
            )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input = self._process.stdin.fileno()
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        with contextlib.suppress(OSError):  # a smaller pipe serves too
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def ended_unasked(self) -> bool:
        """Whether it ended although nobody told it to."""
        return not self._told_to_end and self._process.poll() is not None

    @property
    def was_killed(self) -> bool:
        """Whether somebody has ended it as a power cut does."""
        return self.ended_unasked and self._process.returncode == -signal.SIGKILL

    def last_words(self) -> str:
        """Why it ended: the last line of its log, which says nothing of a signal."""
        lines = self._log.read_text(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        status = self._process.returncode
        if words and status >= 0:
            return words[-1]
        how = f"status {status}" if status >= 0 else signal.Signals(-status).name
        said = f"the last word in its log was: {words[-1]}" if words else "no word in its log"
        return f"{how}, and {said}"

    def drain(self) -> list[Record]:
        """What it has told since; answers are handed to who asked.

        Raises:
            LineInvalid: It wrote something else.
        """
        data = b"" if self._closed else self._read()
        if not data:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        records: list[Record] = []
        for line in lines:
            for record in read_records(line):
                if isinstance(record, Answer):
                    answer = self._answers.pop(record.number, None)
                    if answer is not None and not answer.done():
                        answer.set_result(record)
                else:
                    records.append(record)
        return records

    async def ask(self, make: type[Command], /, **fields: Any) -> Answer:
        """Tell it to do something, and return when it is done.

        Raises:
            CommandFailed: It could not, or did not answer in time.
        """
        self._number += 1
        number = self._number
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._write(make(number=number, **fields))
        try:
            async with asyncio.timeout(ANSWER_S):
                done: Answer = await answer
        except TimeoutError:
            raise CommandFailed(
                f"{self.name} did not answer {make.__name__} within {ANSWER_S:g} s"
            ) from None
        finally:
            self._answers.pop(number, None)
        if done.problem is not None:
            raise CommandFailed(f"{self.name}: {done.problem}")
        return done

    def kill(self) -> list[Record]:
        """End it as a power cut does, if nobody has, and return what it had told before."""
        self._told_to_end = True
        self._process.kill()
        self._process.wait()
        records = self.drain()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(CommandFailed(f"{self.name} was killed"))
        self._close()
        return records

    def tell_to_stop(self) -> None:
        """Let it end by itself; `wait_stopped` waits for that."""
        if not self._told_to_end:
            self._told_to_end = True
            with contextlib.suppress(CommandFailed):
                self._write(Stop())

    async def wait_stopped(self) -> None:
        """Wait until it has ended; in the end it is killed, and what it started with it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                while self._process.poll() is None:
                    self.drain()  # a full pipe would keep it from ending
                    await asyncio.sleep(0.01)
        self.bury()

    def bury(self) -> None:
        """Kill whatever is left of it, at once."""
        self._told_to_end = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._close()

    def _read(self) -> bytes:
        """All there is; at most one pipe full, so that nobody is kept waiting by a talker."""
        chunks: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            for _ in range(PIPE_BYTES // READ_BYTES):
                chunk = os.read(self._output, READ_BYTES)
                chunks.append(chunk)
                if len(chunk) < READ_BYTES:
                    break
        return b"".join(chunks)

    def _write(self, command: Command) -> None:
        try:
            os.write(self._input, write_command(command))
        except OSError as error:
            raise CommandFailed(
                f"{self.name} takes no commands any more: {error.strerror}"
            ) from None

    def _close(self) -> None:
        self._closed = True
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
