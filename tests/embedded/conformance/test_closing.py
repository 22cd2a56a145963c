"""Sections 3.12 to 3.14 and 4.8: pings, goodbyes, and what ends a connection."""

import pytest

from broker.embedded import packets
from tests.embedded.conformance.broker import serving
from tests.embedded.harness import client

publish = packets.encode_publish


async def test_a_ping_is_answered() -> None:
    async with serving() as node, client(node) as raw:
        raw.send(packets.PINGREQ_PACKET * 3)
        for _ in range(3):
            await raw.expect(packets.PINGRESP, b"")


async def test_disconnect_closes_and_nothing_after_it_counts() -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("#")
        async with client(node) as raw:
            raw.send(packets.DISCONNECT_PACKET, publish("late", b""), packets.PINGREQ_PACKET)
            assert await raw.closed() == []
        assert await watcher.messages() == []


VIOLATIONS = {
    "CONNACK": packets.encode_connack(0),
    "SUBACK": packets.encode_suback(1, b"\0"),
    "UNSUBACK": packets.encode_ack(packets.UNSUBACK, 1),
    "PINGRESP": packets.PINGRESP_PACKET,
    "PINGREQ with a body": b"\xc0\1a",
    "DISCONNECT with a body": b"\xe0\1a",
    "PUBACK that is cut off": b"\x40\1\0",
    "PUBACK with more": b"\x40\3\0\1\0",
    "PUBACK of packet id 0": b"\x40\2\0\0",
    "a remaining length of five bytes": b"\x30\x80\x80\x80\x80\1",
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_closes_that_connection_alone(name: str) -> None:
    async with serving() as node, client(node, "good") as good:
        await good.subscribe("t")
        async with client(node, "bad") as bad:
            bad.send(publish("t", b"before"), VIOLATIONS[name], publish("t", b"after"))
            assert await bad.closed() == []
        assert await good.messages() == [(0, "t", b"before")]
