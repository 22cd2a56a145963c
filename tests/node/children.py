"""Devices in processes of their own that can be killed: the other end of child.py."""

import asyncio
import contextlib
import signal
import sys

from tests.waiting import until


class Child:
    """A device in another process; see child.py. It survives its own death under the same name."""

    def __init__(self, name, state, *options):
        self.device = name
        self.port = 0
        self.tried = self.kept = -1
        """The last number that was published, and the last that was acknowledged."""
        self.doubtful = set()
        """Numbers that were published and not acknowledged when it was killed."""
        self._arguments = [name, str(state), *options]
        self._process = None
        self._reading = None

    async def boot(self, *to):
        self.port = 0
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.node.child", *self._arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._reading = asyncio.ensure_future(self._read())
        await until(lambda: self.port, f"{self.device} to listen")
        for other in to:
            self.tell(f"dial {other.device} {other.port}")

    def tell(self, line):
        self._process.stdin.write(line.encode() + b"\n")

    def publish(self):
        self.tell(f"publish {self.tried + 1}")

    async def kill(self):
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        await self._reading
        self.doubtful.update(range(self.kept + 1, self.tried + 1))

    async def _read(self):
        while line := await self._process.stdout.readline():
            verb, number = line.split()
            if verb == b"port":
                self.port = int(number)
            elif verb == b"try":
                self.tried = int(number)
            else:
                self.kept = int(number)


@contextlib.asynccontextmanager
async def ended(*children):
    try:
        yield
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError, AttributeError):
                await child.kill()
