"""Clients that others wrote, and one as a page in a browser has it."""

import asyncio
import contextlib
from asyncio.subprocess import PIPE

import websockets
from websockets.asyncio.client import connect as websocket_connect

from broker.embedded import packets
from tests.embedded.harness import DEADLINE_S, FakeNode, program


async def run(name: str, node: FakeNode, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        program(name), "-h", "127.0.0.1", "-p", str(node.broker.port), *arguments, stdout=PIPE
    )


async def line(stream: asyncio.StreamReader) -> str:
    async with asyncio.timeout(DEADLINE_S):
        return (await stream.readline()).decode().rstrip("\n")


@contextlib.asynccontextmanager
async def browser(node: FakeNode):
    async with websocket_connect(
        f"ws://127.0.0.1:{node.broker.websocket_port}",
        subprotocols=[websockets.Subprotocol("mqtt")],
        max_size=None,
    ) as websocket:
        assert websocket.subprotocol == "mqtt"
        yield websocket


class Browser:
    """Packets over a WebSocket."""

    def __init__(self, websocket: websockets.asyncio.client.ClientConnection) -> None:
        self.websocket = websocket
        self.parser = packets.PacketParser()

    async def packet(self) -> tuple[int, int, bytes]:
        async with asyncio.timeout(DEADLINE_S):
            while (packet := next(self.parser.packets(), None)) is None:
                self.parser.feed(await self.websocket.recv())
            return packet
