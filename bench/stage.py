"""The processes of one benchmark: started here, asked things, and ended here, by their ids, whatever happens.

Decides: every process leads a session of its own, so Ctrl-C reaches the benchmark only, which then ends them all. A
role ends by itself when its input closes, so none outlives even a benchmark that is killed. Everything is written into
one temporary directory, which goes in the end.

Assumes Linux and loopback. On failure: a role that ends unasked or does not answer is an error with the last line of
its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from agent.demo.procfs import cpu_s, family

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["BenchFailed", "Role", "Stage", "free_port", "program"]

ANSWER_S: Final = 120.0
"""No window and no settling takes longer."""
NICENESS: Final = 19
"""The lowest priority that there is."""
STOP_S: Final = 5.0
LISTEN_S: Final = 10.0
LINE_BYTES_MAX: Final = 64 * 1024 * 1024


class BenchFailed(Exception):
    """Raised when a benchmark cannot go on; the text says what happened."""


def free_port() -> int:
    """A port that nobody listens on now, for programs that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> str | None:
    """Where a program is installed; daemons may stand outside of PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


class Role:
    """A part of a benchmark in a process of its own, written in Python: see `bench.role`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.opened: Any = None
        """What it answered to `open`."""
        self._process = process
        self._log = log
        self._lock = asyncio.Lock()

    def give_way(self) -> None:
        """Take only what others leave of the processor from now on: it stands for another machine."""
        os.setpriority(os.PRIO_PROCESS, self.pid, NICENESS)
        # Sessions share the processor first, then the processes of one.
        with contextlib.suppress(OSError):  # a kernel without that
            Path(f"/proc/{self.pid}/autogroup").write_text(str(NICENESS))

    async def ask(self, verb: str, /, **arguments: Any) -> Any:
        """Have it do something, and return its answer when it is done.

        Raises:
            BenchFailed: It ended, failed or did not answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        async with self._lock:
            try:
                self._process.stdin.write(json.dumps([verb, arguments]).encode() + b"\n")
                async with asyncio.timeout(ANSWER_S):
                    line = await self._process.stdout.readline()
            except TimeoutError:
                raise BenchFailed(f"{self.name} did not {verb} within {ANSWER_S:g} s") from None
            except ConnectionError:
                pass  # it has ended; its log says why
        if not line:
            raise BenchFailed(f"{self.name} has ended: {_last_line(self._log)}")
        answer = json.loads(line)
        if "problem" in answer:
            raise BenchFailed(f"{self.name} could not {verb}: {answer['problem']}")
        return answer["value"]


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no word in its log")


class Stage:
    """Holds the processes and the directory of one benchmark; use it with `async with`."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="flockmq-bench-")
        self.path = Path(self._directory.name)
        self._processes: list[asyncio.subprocess.Process] = []
        self._count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.clear()
        self._directory.cleanup()

    def directory(self, name: str) -> Path:
        """A new directory for one process."""
        self._count += 1
        path = self.path / f"{self._count}-{name}"
        path.mkdir()
        return path

    async def role(self, name: str, module: str, **settings: Any) -> Role:
        """Start a role (`module:Class`) and return when it is ready.

        Raises:
            BenchFailed: It could not start.
        """
        log = self.directory(name) / "log"
        process = await self._spawn(
            [sys.executable, "-P", "-m", "bench.role", module], log, asyncio.subprocess.PIPE
        )
        role = Role(name, process, log)
        role.opened = await role.ask("open", **settings)
        return role

    async def daemon(self, name: str, command: list[str], port: int) -> int:
        """Start a program and return its process id when it listens on `port`.

        Raises:
            BenchFailed: It does not.
        """
        log = self.directory(name) / "log"
        process = await self._spawn(command, log, asyncio.subprocess.DEVNULL)
        deadline = asyncio.get_running_loop().time() + LISTEN_S
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return process.pid
            if process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                raise BenchFailed(f"{name} does not listen: {_last_line(log)}")
            await asyncio.sleep(0.02)

    def cpu_s(self) -> float:
        """Processor time of all processes so far, and of what they started; user and system."""
        pids = {process.pid for process in self._processes}
        return cpu_s(set().union(*family(pids).values())) or 0.0

    async def clear(self) -> None:
        """End all processes, the last started first."""
        processes, self._processes = self._processes[::-1], []
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
            elif process.returncode is None:
                process.terminate()
        for process in processes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _spawn(self, command: list[str], log: Path, stdin: int) -> asyncio.subprocess.Process:
        root = str(Path(__file__).parent.parent)
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE if stdin == subprocess.PIPE else errors,
                stderr=errors,
                start_new_session=True,
                limit=LINE_BYTES_MAX,
                env={**os.environ, "PYTHONPATH": root},
            )
        self._processes.append(process)
        return process
