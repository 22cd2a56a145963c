"""zenoh: three routers in a row, each in a process of its own, through the Python binding.

The near process publishes, the far one reduces, as flockmq's devices do. Reliable, and a full queue blocks instead of
dropping. The far end takes what has come in one go: a callback per sample costs more.
"""

from __future__ import annotations

import asyncio
import json
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench.ends import Publishing, Reducing
from bench.role import Part
from bench.stage import Stage, free_port
from bench.systems.row import Row
from bench.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Zenoh"]

zenoh: Any
try:
    zenoh = import_module("zenoh")
except ImportError:
    zenoh = None

_QUEUE = 65_536


def _open(listen: int | None, connect: int | None) -> Any:
    settings: dict[str, Any] = {
        "mode": "router",
        "scouting": {"multicast": {"enabled": False}, "gossip": {"enabled": False}},
        "listen": {"endpoints": [f"tcp/127.0.0.1:{listen}"] if listen else []},
        "connect": {"endpoints": [f"tcp/127.0.0.1:{connect}"] if connect else []},
    }
    return zenoh.open(zenoh.Config.from_json5(json.dumps(settings)))


async def _wait_links(session: Any, links: int) -> None:
    await until(lambda: len(list(session.info.routers_zid())) >= links)


class Middle(Part):
    """The router in the middle."""

    async def open(self, *, listen: int) -> None:
        """Start."""
        self._session = _open(listen, None)

    async def close(self) -> None:
        """Stop."""
        self._session.close()


class Near(Publishing):
    """Publishes."""

    async def connect(self, *, to: int) -> None:
        """Start."""
        self._session = _open(None, to)
        self._publishers: dict[str, Any] = {}
        await _wait_links(self._session, 1)

    def send(self, topic: str, payload: bytes) -> None:
        """Publish one update; a declared publisher per topic is the fast way."""
        publisher = self._publishers.get(topic)
        if publisher is None:
            publisher = self._publishers[topic] = self._session.declare_publisher(
                topic,
                congestion_control=zenoh.CongestionControl.BLOCK,
                reliability=zenoh.Reliability.RELIABLE,
            )
        publisher.put(payload)

    async def close(self) -> None:
        """Stop."""
        self._session.close()


class Far(Reducing):
    """Reduces in a thread that takes what has come."""

    async def connect(self, *, to: int) -> None:
        """Start."""
        self._session = _open(None, to)
        self._subscriber = self._session.declare_subscriber(
            "flock/**", zenoh.handlers.FifoChannel(_QUEUE)
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        await _wait_links(self._session, 1)

    def _run(self) -> None:
        receive, more = self._subscriber.recv, self._subscriber.try_recv
        while True:
            try:
                sample = receive()
            except zenoh.ZError:
                return  # closed
            batch = []
            while sample is not None:
                batch.append((str(sample.key_expr), sample.payload.to_bytes()))
                sample = more() if len(batch) < 256 else None
            self.reducer.take_foreign(batch)

    async def close(self) -> None:
        """Stop."""
        self._session.close()


class Zenoh:
    """A row of zenoh routers."""

    name = "zenoh"

    def missing(self) -> str | None:
        """Why it cannot take part."""
        return None if zenoh is not None else "eclipse-zenoh is not installed (the extra `bench`)"

    async def start(self, stage: Stage, stamps: Path) -> Row:
        """Start three routers."""
        port = free_port()
        module = "bench.systems.zenoh:"
        await stage.role("zenoh-b", module + "Middle", listen=port)
        far = await stage.role("zenoh-c", module + "Far", stamps=str(stamps), to=port)
        near = await stage.role("zenoh-a", module + "Near", stamps=str(stamps), to=port)
        await asyncio.sleep(1.0)  # the subscription has to reach the near router; it tells nobody
        return Row(near=near, far=far)
