"""The broker that the conformance tests talk to: one device with a real node and store, through sockets only.

CONFORMANCE_BROKER=mosquitto or =amqtt puts another one in its place, to see what the tests say about that.
"""

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

from amqtt.broker import Broker

from broker.commits import Durability
from broker.node import Node
from broker.store import Store


@asynccontextmanager
async def _flockmq(state: Path) -> AsyncIterator[tuple[int, int]]:
    store = Store(state)
    node = Node("self", store, port=0, websocket_port=0, durability=Durability.PROCESS)
    await node.start()
    try:
        yield node.port, node.websocket_port
    finally:
        await node.stop()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def _mosquitto(state: Path) -> AsyncIterator[tuple[int, int]]:
    tcp, websocket = _free_port(), _free_port()
    path = state / "mosquitto.conf"
    listeners = f"listener {tcp} 127.0.0.1\nlistener {websocket} 127.0.0.1\nprotocol websockets\n"
    path.write_text(listeners + "allow_anonymous true\n")
    program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    process = await asyncio.create_subprocess_exec(
        program, "-c", path, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", tcp)
                break
        writer.close()
        yield tcp, websocket
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _amqtt(state: Path) -> AsyncIterator[tuple[int, int]]:
    listeners = {
        "default": {"type": "tcp", "bind": "127.0.0.1:0"},
        "websocket": {"type": "ws", "bind": "127.0.0.1:0"},
    }
    broker = Broker(
        {
            "listeners": listeners,
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}},
        }
    )
    await broker.start()
    ports = [
        next(iter(broker._servers[name].instance.sockets)).getsockname()[1] for name in listeners
    ]
    try:
        yield ports[0], ports[1]
    finally:
        with suppress(Exception):
            await asyncio.wait_for(broker.shutdown(), 10)


_KINDS = {"flockmq": _flockmq, "mosquitto": _mosquitto, "amqtt": _amqtt}


@asynccontextmanager
async def serving() -> AsyncIterator[SimpleNamespace]:
    kind = _KINDS[os.environ.get("CONFORMANCE_BROKER", "flockmq")]
    with tempfile.TemporaryDirectory() as directory:
        async with kind(Path(directory)) as (port, websocket_port):
            yield SimpleNamespace(broker=SimpleNamespace(port=port, websocket_port=websocket_port))
