"""Section 6: MQTT over WebSocket."""

import asyncio
import contextlib

import pytest
import websockets
from websockets.asyncio.client import connect

from broker.embedded import packets
from tests.embedded.conformance.broker import serving
from tests.embedded.harness import DEADLINE_S, connect_packet


@contextlib.asynccontextmanager
async def browser(node, *protocols: str):
    async with connect(
        f"ws://127.0.0.1:{node.broker.websocket_port}",
        subprotocols=[websockets.Subprotocol(name) for name in protocols] or None,
    ) as websocket:
        yield websocket


async def packet(websocket, parser: packets.PacketParser) -> tuple[int, int, bytes]:
    async with asyncio.timeout(DEADLINE_S):
        while (found := next(parser.packets(), None)) is None:
            data = await websocket.recv()
            assert isinstance(data, bytes)
            parser.feed(data)
        return found


async def test_the_subprotocol_is_mqtt() -> None:
    async with serving() as node, browser(node, "other", "mqtt") as websocket:
        assert websocket.subprotocol == "mqtt"


async def test_without_the_subprotocol_there_is_no_mqtt() -> None:
    async with serving() as node:
        for protocols in ((), ("other",)):
            with pytest.raises(websockets.InvalidStatus):
                async with browser(node, *protocols):
                    pass


async def test_a_text_frame_closes() -> None:
    async with serving() as node, browser(node, "mqtt") as websocket:
        await websocket.send(connect_packet("browser"))
        assert (await packet(websocket, packets.PacketParser()))[0] == packets.CONNACK
        await websocket.send("text")
        with pytest.raises(websockets.ConnectionClosed):
            async with asyncio.timeout(DEADLINE_S):
                await websocket.recv()


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_frames_and_packets_need_not_agree(size: int) -> None:
    async with serving() as node, browser(node, "mqtt") as websocket:
        stream = connect_packet("browser") + packets.encode_subscribe(1, [("t", 1)])
        stream += packets.encode_publish("t", bytes(200)) * 2
        for start in range(0, len(stream), size):
            await websocket.send(stream[start : start + size])
        parser = packets.PacketParser()
        found = [await packet(websocket, parser) for _ in range(4)]
        assert [kind for kind, _, _ in found[:2]] == [packets.CONNACK, packets.SUBACK]
        assert [len(body) for _, _, body in found[2:]] == [203, 203]
