"""A TCP relay on loopback that can be cut, and that takes a stated time to carry anything.

While it is cut it reads nothing and answers nobody, as a lost radio does; connections stay open, and what the kernel
holds arrives when it is whole again. Delay is one way and the same both ways; what is on its way is bounded by what
TCP lets a sender have unread.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["Cable"]

READ_BYTES: Final = 64 * 1024
UNDER_WAY_MAX: Final = 1_024
"""Reads on their way in one direction."""


class Cable:
    """A relay.

    Args:
        to: The port that it leads to.
        delay_s: How long it takes to carry what it read, one way.
    """

    def __init__(self, to: int, delay_s: float = 0.0) -> None:
        self._to = to
        self._delay_s = delay_s
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.carried_bytes = 0
        """Both ways together."""

    async def lay(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Carry nothing any more."""
        self._whole.clear()

    def mend(self) -> None:
        """Carry again."""
        self._whole.set()

    async def remove(self) -> None:
        """Close everything."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(
            *(writer.wait_closed() for writer in self._writers), return_exceptions=True
        )

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        await self._whole.wait()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        self._writers.append(back)
        for source, sink in ((reader, back), (there, writer)):
            under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY_MAX)
            self._spawn(self._take(source, under_way))
            self._spawn(self._bring(under_way, sink))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(
        self, source: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        loop = asyncio.get_running_loop()
        data = b"?"
        while data:
            try:
                data = await source.read(READ_BYTES)
            except ConnectionError:
                data = b""
            await self._whole.wait()
            await under_way.put((loop.time() + self._delay_s, data))

    async def _bring(
        self, under_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while True:
                due_s, data = await under_way.get()
                if due_s > loop.time():
                    await asyncio.sleep(due_s - loop.time())
                if not data:
                    break
                sink.write(data)
                self.carried_bytes += len(data)
                await sink.drain()
        sink.close()
