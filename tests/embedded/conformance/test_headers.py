"""Sections 2.2.2 and 2.3.1: flags that are reserved, and packet identifiers."""

import pytest

from broker.embedded import packets
from tests.embedded.conformance.broker import serving
from tests.embedded.harness import client, connect_packet, socket_to

publish = packets.encode_publish
ack = packets.encode_ack

RESERVED = {
    "PUBACK": ack(packets.PUBACK, 1),
    "PUBREC": ack(packets.PUBREC, 1),
    "PUBREL": ack(packets.PUBREL, 1),
    "PUBCOMP": ack(packets.PUBCOMP, 1),
    "SUBSCRIBE": packets.encode_subscribe(1, [("t", 0)]),
    "UNSUBSCRIBE": b"\xa2\5\0\1\0\1t",
    "PINGREQ": packets.PINGREQ_PACKET,
    "DISCONNECT": packets.DISCONNECT_PACKET,
}


@pytest.mark.parametrize("name", RESERVED)
async def test_reserved_flags_close(name: str) -> None:
    right = RESERVED[name]
    async with serving() as node:
        async with client(node) as raw:
            raw.send(right)  # as it should be: only DISCONNECT ends it
            if name != "DISCONNECT":
                await raw.rest()
        for flags in range(16):
            if flags != right[0] & 15:
                async with client(node) as raw:
                    raw.send(bytes((right[0] & 0xF0 | flags,)) + right[1:])
                    assert await raw.closed() == []


async def test_reserved_flags_of_connect_close() -> None:
    right = connect_packet("c")
    async with serving() as node:
        for flags in range(1, 16):
            async with socket_to(node) as raw:
                raw.send(bytes((right[0] | flags,)) + right[1:])
                assert await raw.closed() == []


async def test_a_disconnect_with_reserved_flags_is_no_goodbye() -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("gone")
        async with client(node, will=("gone", b"w", 0, False)) as raw:
            raw.send(b"\xe1\0")
            assert await raw.closed() == []
        assert (await watcher.publish())[1:3] == ("gone", b"w")


@pytest.mark.parametrize("kind", [0, 15])
async def test_packet_types_that_do_not_exist_close(kind: int) -> None:
    async with serving() as node, client(node) as raw:
        raw.send(bytes((kind << 4, 0)))
        assert await raw.closed() == []


ZERO = {
    "PUBLISH QoS 1": publish("t", b"", 1, packet_id=0),
    "PUBLISH QoS 2": publish("t", b"", 2, packet_id=0),
    "SUBSCRIBE": packets.encode_subscribe(0, [("t", 0)]),
    "UNSUBSCRIBE": b"\xa2\5\0\0\0\1t",
}


@pytest.mark.parametrize("name", ZERO)
async def test_packet_id_zero_closes(name: str) -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("#")
        async with client(node) as raw:
            raw.send(ZERO[name])
            assert await raw.closed() == []
        assert await watcher.messages() == []


async def test_packet_ids_of_messages_are_not_zero_and_unused() -> None:
    async with serving() as node, client(node) as sub, client(node) as pub:
        await sub.subscribe("t", 2)
        for number in range(1, 101):
            pub.send(publish("t", b"", 1 + number % 2, packet_id=number))
        used = {(await sub.publish())[3] for _ in range(100)}
        assert len(used) == 100
        assert 0 not in used
        sub.send(*(ack(packets.PUBACK, packet_id) for packet_id in sorted(used)))
        pub.send(publish("t", b"", 1, packet_id=500))
        assert (await sub.publish())[3] not in used  # half of them are QoS 2 and still in use


async def test_a_message_at_qos0_has_no_packet_id() -> None:
    async with serving() as node, client(node) as raw:
        await raw.subscribe("t", 2)
        raw.send(publish("t", b"payload"))
        assert await raw.packet() == (packets.PUBLISH, 0, b"\0\1tpayload")


@pytest.mark.parametrize("packet_id", [1, 255, 256, 65_535])
async def test_answers_carry_the_packet_id(packet_id: int) -> None:
    async with serving() as node, client(node) as raw:
        body = packet_id.to_bytes(2, "big")
        raw.send(publish("t", b"", 1, packet_id=packet_id))
        await raw.expect(packets.PUBACK, body)
        raw.send(publish("t", b"", 2, packet_id=packet_id))
        await raw.expect(packets.PUBREC, body)
        raw.send(ack(packets.PUBREL, packet_id))
        await raw.expect(packets.PUBCOMP, body)
        raw.send(packets.encode_subscribe(packet_id, [("t", 0), ("u", 1)]))
        await raw.expect(packets.SUBACK, body + b"\0\1")
        raw.send(b"\xa2\5" + body + b"\0\1t")
        await raw.expect(packets.UNSUBACK, body)
