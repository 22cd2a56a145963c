"""Who is asked by address, and what may answer."""

import asyncio
import contextlib
import json

import pytest

from broker.embedded import packets
from broker.introduction import ANSWER_BYTES_MAX, DEVICE_TOPIC, Unanswered, ask, introduction
from broker.mesh.frame import PROTOCOL
from tests.node.fleet import start


def shown(node, text):
    node.publish_nowait(DEVICE_TOPIC, text, retained=True)


def asked(tmp_path, text, site="town"):
    async def story():
        node = await start("b", tmp_path)
        try:
            shown(node, text)
            return await ask("127.0.0.1", node.port, site)
        finally:
            await node.stop()

    return asyncio.run(story())


def test_a_device_tells_its_name_and_how_far_it_is(tmp_path):
    answer = asked(tmp_path, json.dumps(introduction("b", "town")).encode())
    assert answer.introduction.device == "b"
    assert 0 < answer.rtt_ms < 2000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (introduction("b", "elsewhere"), "of site elsewhere"),
        (introduction("b", "town") | {"protocol": PROTOCOL + 1}, f"protocol {PROTOCOL + 1}"),
        (introduction("B 1", "town"), "matching regex"),
        ({}, "missing required field"),
        ([], "Expected `object`"),
    ],
)
def test_who_is_no_neighbour_is_told_why(tmp_path, text, reason):
    with pytest.raises(Unanswered, match=reason):
        asked(tmp_path, json.dumps(text).encode())


def test_a_broker_that_is_no_device_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("broker.introduction.ASK_TIMEOUT_S", 0.2)

    async def story():
        node = await start("b", tmp_path)
        with pytest.raises(Unanswered, match="no flockmq device answers"):
            await ask("127.0.0.1", node.port, "town")
        await node.stop()

    asyncio.run(story())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 100,
        packets.encode_connack(5),
        packets.encode_connack(0) + packets.PINGRESP_PACKET * ANSWER_BYTES_MAX,
        packets.encode_connack(0) + packets.encode_publish("x", b"[" * 2000),
        packets.encode_connack(0) + packets.encode_publish("x", b'{"more":' + b"[" * 2000),
        packets.encode_connack(0) + b"\x30\xff\xff\xff\x7f",
    ],
)
def test_whatever_listens_there_the_answer_is_short(answer):
    async def story():
        async def listen(reader, writer):
            with contextlib.suppress(ConnectionError):
                await reader.read(100)
                writer.write(answer)
                await writer.drain()
                if answer:
                    await reader.read()
            writer.close()

        server = await asyncio.start_server(listen, "127.0.0.1", 0)
        with pytest.raises(Unanswered):
            await ask("127.0.0.1", server.sockets[0].getsockname()[1], "town")
        server.close()

    asyncio.run(story())


@pytest.mark.parametrize("host", ["127.0.0.1", "x..local", "b.example\0", "256.256.256.256"])
def test_nobody_there_is_one_sentence(host):
    with pytest.raises(Unanswered, match=r".+"):
        asyncio.run(ask(host, 9, "town"))
