"""A lean device of `models`: a node and what it has and fetches of content, no agent and no inference worker.

Every chunk that arrives is noted in a file at once, before anybody else sees it, so that the notes outlive a kill.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent.models.chunks import ChunkInvalid, decode_chunk
from agent.models.content import Content
from agent.models.fetch import Fetcher
from agent.models.manifest import Delta
from agent.models.store import ContentStore
from agent.models.transfers import Transfers
from bench.models_device import SITE
from bench.role import Part
from bench.systems.flockmq import Holder
from bench.waiting import until
from broker.calls import Calls
from broker.link import Neighbour
from broker.topics import classify

if TYPE_CHECKING:
    from broker.node import Delivered

__all__ = ["Puller"]


class Puller(Holder, Part):
    """One device."""

    async def open(self, *, device: str, state: str, identity: str) -> int:
        """Start without neighbours; returns the port that they dial."""
        directory = Path(state)
        port = await self.start_node(device, str(directory / "node"), [], identity, "mac")
        self._notes = os.open(directory / "arrived", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._fetching: asyncio.Task[int] | None = None
        self._count = 0
        self._arrived = 0
        self.node.subscribe(self._note)
        self._calls = Calls(self.node, SITE)
        self._store = ContentStore(directory / "models")
        self._transfers = Transfers(self.node, self._calls, self._store, SITE)
        self._fetcher = Fetcher(self._transfers, self._store)
        return port

    async def dial(self, *, neighbours: list[list[Any]]) -> None:
        """Dial these (name, port)."""
        for name, port in neighbours:
            self.node.dial(Neighbour(name, "127.0.0.1", port))

    async def add(self, *, path: str) -> str:
        """Take in a file; returns its content as JSON."""
        data = await asyncio.to_thread(Path(path).read_bytes)
        content = await asyncio.to_thread(self._store.add, data)
        return msgspec.json.encode(content).decode()

    async def begin(
        self, *, content: str, deltas: list[dict[str, Any]] | None = None, at_ns: int = 0
    ) -> None:
        """Begin to fetch, at that moment, by one of these deltas if its base is here."""
        wanted = msgspec.json.decode(content, type=Content)
        self._count = wanted.count
        self._arrived = 0
        await asyncio.sleep(max(0, at_ns - time.monotonic_ns()) / 1e9)
        self._fetching = asyncio.create_task(
            self._fetch(wanted, msgspec.convert(deltas or [], list[Delta]))
        )

    async def whole(self) -> int:
        """When what was begun is whole and checked."""
        assert self._fetching is not None, "begin comes first"
        return await self._fetching

    async def arrived(self, *, chunks: int) -> None:
        """Return when so many chunks of what was begun have arrived."""
        await until(lambda: self._arrived >= chunks, every_s=0.001)

    async def uploaded(self, *, sha256: str) -> int:
        """Bytes of content that were given to others."""
        return self._transfers.uploaded.get(sha256, 0)

    async def bytes_out(self) -> int:
        """All that links have carried from here."""
        return sum(peer.bytes_out for peer in self.node.statistics().mesh.peers)

    async def deltas(self) -> dict[str, Any]:
        """What came of deltas here."""
        return self._fetcher.report()

    async def close(self) -> None:
        """Stop."""
        if self._fetching is not None:
            self._fetching.cancel()
        await self._transfers.close()
        await self._calls.close()
        await super().close()
        os.close(self._notes)

    async def _fetch(self, content: Content, deltas: list[Delta]) -> int:
        await self._fetcher.fetch(content, deltas)
        return time.monotonic_ns()

    def _note(self, batch: list[Delivered]) -> None:
        for message in batch:
            if self._count and classify(message.topic).name == "chunk":
                try:
                    chunk = decode_chunk(message.payload, self._count)
                except ChunkInvalid:
                    continue  # of other content
                if chunk.data:
                    os.write(self._notes, b"%d\n" % chunk.index)
                    self._arrived += 1
