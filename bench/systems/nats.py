"""NATS: three servers in a row, each a leaf node of the next, with nats-py at both ends.

Core NATS: at most once. A kept promise would need JetStream, which does not forward from server to server but is read
across the leaf links; the figures here are therefore those of a weaker promise than everyone else's.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench.ends import Publishing, Reducing
from bench.stage import Stage, free_port, program
from bench.systems.row import Row

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Nats"]

nats: Any
try:
    nats = import_module("nats")
except ImportError:
    nats = None

PENDING_BYTES = 64 * 1024 * 1024
SUBJECTS = "flock.>"
PROBE = "flock.probe"


def _subject(topic: str) -> str:
    return topic.replace("/", ".")


class Near(Publishing):
    """Publishes."""

    async def connect(self, *, port: int) -> None:
        """Connect."""
        self._client = await nats.connect(
            f"nats://127.0.0.1:{port}", pending_size=PENDING_BYTES, allow_reconnect=False
        )
        self._loop = asyncio.get_running_loop()

    def send(self, topic: str, payload: bytes) -> None:
        """Publish one update."""
        # Its publish is a coroutine that only waits when the buffer is full, which the window prevents.
        coroutine = self._client.publish(_subject(topic), payload)
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise RuntimeError("nats-py had to wait")

    async def turn(self) -> None:
        """Let its writer run."""
        await self._client.flush()

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


class Far(Reducing):
    """Reduces in its callback."""

    async def connect(self, *, port: int) -> None:
        """Subscribe."""
        self._client = await nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
        await self._client.subscribe(
            SUBJECTS, cb=self._on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await self._client.flush()

    async def _on_message(self, message: Any) -> None:
        if message.subject != PROBE:
            topic = message.subject.replace(".", "/")
            self.reducer.take_foreign([(topic, message.data)])

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


class Nats:
    """A row of NATS servers."""

    name = "nats"

    def missing(self) -> str | None:
        """Why it cannot take part."""
        if nats is None:
            return "nats-py is not installed (the extra `bench`)"
        return None if program("nats-server") else "nats-server is not installed"

    async def start(self, stage: Stage, stamps: Path) -> Row:
        """Start three servers in a row."""
        path = program("nats-server")
        assert path is not None
        ports = {}
        leaf_port = 0
        for name in ("c", "b", "a"):
            port, own_leaf_port = free_port(), free_port()
            config = stage.directory(f"nats-{name}") / "nats.conf"
            remote = f'remotes = [{{url: "nats://127.0.0.1:{leaf_port}"}}]' if leaf_port else ""
            config.write_text(
                f'host: "127.0.0.1"\nport: {port}\nserver_name: "{name}"\n'
                f'leafnodes {{ host: "127.0.0.1"\n port: {own_leaf_port}\n {remote} }}\n'
            )
            await stage.daemon(f"nats-{name}", [path, "-c", str(config)], port)
            ports[name], leaf_port = port, own_leaf_port
        module = "bench.systems.nats:"
        far = await stage.role("nats-far", module + "Far", stamps=str(stamps), port=ports["c"])
        near = await stage.role("nats-near", module + "Near", stamps=str(stamps), port=ports["a"])
        await asyncio.sleep(1.5)  # leaf links and interest tell nobody when they stand
        return Row(near=near, far=far)
