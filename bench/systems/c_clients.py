"""Mosquitto's own C clients as the two ends of a row: what the brokers carry when Python is out of the way.

`mosquitto_pub -l` publishes a line of its input per message, on one topic; `mosquitto_sub` prints what comes. Nothing
is reduced; count and order are judged all the same.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from bench.ends import Publishing, Reducing
from bench.stage import Stage, program
from bench.systems.mosquitto import start_brokers
from bench.systems.row import Row
from bench.traffic import versions_problem

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MosquittoC"]

READ_BYTES = 256 * 1024
SETTLE_S = 0.5


class Near(Publishing):
    """Publishes with mosquitto_pub."""

    async def connect(self, *, port: int, command: str) -> None:
        """Connect."""
        self._lines: list[bytes] = []
        arguments = ("-h", "127.0.0.1", "-p", str(port), "-q", "1", "-t", "flock/c", "-l")
        self._process = await asyncio.create_subprocess_exec(
            command, *arguments, stdin=asyncio.subprocess.PIPE
        )
        await asyncio.sleep(SETTLE_S)

    def send(self, topic: str, payload: bytes) -> None:
        """Publish one update."""
        del topic  # it knows one only
        self._lines.append(payload)
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n".join(self._lines) + b"\n")
        self._lines.clear()

    async def turn(self) -> None:
        """Let it read."""
        await asyncio.sleep(0)
        assert self._process.stdin is not None
        await self._process.stdin.drain()

    async def close(self) -> None:
        """Disconnect."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


class Far(Reducing):
    """Receives with mosquitto_sub."""

    async def connect(self, *, port: int, command: str) -> None:
        """Subscribe."""
        arguments = ("-h", "127.0.0.1", "-p", str(port), "-q", "1", "-t", "flock/#")
        self._process = await asyncio.create_subprocess_exec(
            command, *arguments, stdout=asyncio.subprocess.PIPE
        )
        self._payloads: list[bytes] = []
        self._stamping = False
        self._last_ns = 0
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(SETTLE_S)

    async def begin(self, *, stamping: bool) -> None:
        """Begin a window."""
        self._payloads = []
        self._stamping = stamping
        self.stamps.count = 0

    async def _run(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while data := await self._process.stdout.read(READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            before = len(self._payloads)
            self._payloads += lines
            self._last_ns = time.monotonic_ns()
            if self._stamping:
                for number in range(before, len(self._payloads)):
                    self.stamps.reduced[number] = self._last_ns
            self.stamps.count = len(self._payloads)

    async def judge(self, *, first: int, count: int) -> dict[str, int | str | None]:
        """What is wrong with the window, and when its last update came."""
        return {
            "problem": versions_problem(self._payloads, first, count),
            "last_ns": self._last_ns,
        }

    async def close(self) -> None:
        """Disconnect."""
        self._process.terminate()
        await self._process.wait()
        await self._task


class MosquittoC:
    """A row of Mosquitto brokers with C clients at both ends."""

    name = "mosquitto, C clients"

    def missing(self) -> str | None:
        """Why it cannot take part."""
        programs = ("mosquitto", "mosquitto_pub", "mosquitto_sub")
        absent = [name for name in programs if program(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    async def start(self, stage: Stage, stamps: Path) -> Row:
        """Start brokers and clients."""
        near_port, far_port = await start_brokers(stage)
        module = "bench.systems.c_clients:"
        far = await stage.role(
            "far",
            module + "Far",
            stamps=str(stamps),
            port=far_port,
            command=program("mosquitto_sub"),
        )
        near = await stage.role(
            "near",
            module + "Near",
            stamps=str(stamps),
            port=near_port,
            command=program("mosquitto_pub"),
        )
        return Row(near=near, far=far)
