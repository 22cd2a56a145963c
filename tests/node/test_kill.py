"""Devices that are killed under load: what was acknowledged arrives, once, in order.

The relay has its log on disk: with one in memory, a relay and then an origin that are killed before anybody else has a
message take it with them, since the origin lets go of what its neighbour holds.
"""

import asyncio
import contextlib
import signal
import sys
from random import Random

import pytest

from tests.node.fleet import Listener, established, start, until


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


def numbers(listener, *, rebuild):
    return [int(payload) for payload in listener.payloads("t", rebuild=rebuild)]


@pytest.mark.parametrize("seed", [1, 2])
def test_publisher_and_relay_may_be_killed_at_any_moment(tmp_path, seed):
    random = Random(seed)

    async def story():
        c = await start("c", tmp_path)
        heard = Listener(c)
        a, h = Child("a", tmp_path / "a"), Child("h", tmp_path / "h", "disk")
        async with ended(a, h):
            await h.boot(c)
            await a.boot(h)
            await until(lambda: established(c) == {"h"} and not c.joining, "a link")
            a.publish()
            for _ in range(6):
                enough = a.kept + random.randrange(1, 400)
                await until(lambda enough=enough: a.kept >= enough, "acknowledgements")
                if random.random() < 0.6:
                    await a.kill()
                    await a.boot(h)
                    a.publish()
                else:
                    await h.kill()
                    await h.boot(c)
                    a.tell(f"dial h {h.port}")
            await a.kill()
            await a.boot(h)
            await until(
                lambda: a.kept in numbers(heard, rebuild=False), "the last acknowledged one"
            )
            got = numbers(heard, rebuild=False)
            assert got == sorted(set(got)), "twice, or out of order"
            assert set(range(a.kept + 1)) - a.doubtful <= set(got)
            assert max(got) <= a.tried
            assert c.statistics().gaps == 0
        await c.stop()

    asyncio.run(story())


def test_what_a_relay_has_on_disk_outlives_its_origin_and_its_own_restart(tmp_path):
    async def story():
        h, a = Child("h", tmp_path / "h", "disk"), Child("a", tmp_path / "a")
        async with ended(a, h):
            await h.boot()
            c = await start("c", tmp_path, [h])
            await a.boot(h)
            await until(lambda: established(c) == {"h"} and not c.joining, "a link")
            await c.stop()
            watcher = await start("d", tmp_path, [h])
            heard = Listener(watcher)
            a.publish()
            await until(lambda: a.kept >= 100, "acknowledgements")
            await a.kill()
            await until(lambda: established(watcher) == {"h"}, "a link")
            await until(lambda: len(set(numbers(heard, rebuild=None))) > 50, "what h relays")
            await watcher.stop()
            relayed = set(numbers(heard, rebuild=None))
            await h.kill()
            await h.boot()
            c = await start("c", tmp_path, [h])
            late = Listener(c)
            await until(lambda: relayed <= set(numbers(late, rebuild=False)), "all that h relayed")
            got = numbers(late, rebuild=False)
            assert got == sorted(set(got))
            assert c.statistics().gaps == 0
            await c.stop()

    asyncio.run(story())
