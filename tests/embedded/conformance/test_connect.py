"""Sections 3.1 and 3.2: CONNECT, CONNACK, and what comes of them."""

import asyncio

import pytest

from broker.embedded import packets
from tests.embedded.conformance.broker import serving
from tests.embedded.harness import client, connect_packet, socket_to

publish = packets.encode_publish
ack = packets.encode_ack


@pytest.mark.parametrize(
    "first",
    [
        packets.PINGREQ_PACKET,
        packets.DISCONNECT_PACKET,
        publish("t", b""),
        packets.encode_subscribe(1, [("t", 0)]),
        ack(packets.PUBACK, 1),
    ],
    ids=["PINGREQ", "DISCONNECT", "PUBLISH", "SUBSCRIBE", "PUBACK"],
)
async def test_anything_before_connect_closes(first: bytes) -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("#")
        async with socket_to(node) as raw:
            raw.send(first, connect_packet("late"))
            assert await raw.closed() == []
        assert await watcher.messages() == []


async def test_a_second_connect_closes() -> None:
    async with serving() as node, client(node, "c") as raw:
        raw.send(connect_packet("c"))
        assert await raw.closed() == []


async def test_another_protocol_name_closes() -> None:
    async with serving() as node, socket_to(node) as raw:
        raw.send(connect_packet("c").replace(b"MQTT", b"MQTX"))
        assert await raw.closed() == []


@pytest.mark.parametrize("level", [0, 2, 5, 6, 127])
async def test_another_protocol_level_is_refused_with_code_1(level: int) -> None:
    async with serving() as node, socket_to(node) as raw:
        raw.send(connect_packet("c", level=level), packets.encode_subscribe(1, [("t", 0)]))
        await raw.expect(packets.CONNACK, b"\0\1")
        assert await raw.closed() == []


async def test_a_real_mqtt5_connect_is_refused_with_code_1() -> None:
    async with serving() as node, socket_to(node) as raw:
        properties = b"\5\x11\0\0\0\x0a"  # session expiry
        raw.send(b"\x10\x13\0\4MQTT\5\2\0\x3c" + properties + b"\0\1c")
        await raw.expect(packets.CONNACK, b"\0\1")
        assert await raw.closed() == []


def with_flags(flags: int, *fields: bytes) -> bytes:
    parts = [len(field).to_bytes(2, "big") + field for field in fields]
    body = b"\0\4MQTT\4" + bytes((flags, 0, 0)) + b"".join(parts)
    return bytes((0x10, len(body))) + body


MALFORMED = {
    "the reserved flag": with_flags(0x03, b"c"),
    "will QoS without will": with_flags(0x0A, b"c"),
    "will QoS 3": with_flags(0x1E, b"c", b"t", b"m"),
    "will RETAIN without will": with_flags(0x22, b"c"),
    "a will without topic and message": with_flags(0x06, b"c"),
    "a will without message": with_flags(0x06, b"c", b"t"),
    "a will whose topic is empty": with_flags(0x06, b"c", b"", b"m"),
    "a will on a wildcard": with_flags(0x06, b"c", b"a/#", b"m"),
    "a will that is not announced": with_flags(0x02, b"c", b"t", b"m"),
    "a user name that is not there": with_flags(0x82, b"c"),
    "a user name that is not announced": with_flags(0x02, b"c", b"u"),
    "a password that is not there": with_flags(0xC2, b"c", b"u"),
    "a password that is not announced": with_flags(0x82, b"c", b"u", b"p"),
    "a password without a user name": with_flags(0x42, b"c", b"p"),
    "no client id": with_flags(0x02),
    "a field that is longer than the packet": b"\x10\x0d\0\4MQTT\4\2\0\0\0\2c",
    "only a protocol name": b"\x10\6\0\4MQTT",
    "nothing": b"\x10\0",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_connect_closes_without_connack(name: str) -> None:
    async with serving() as node, socket_to(node) as raw:
        raw.send(MALFORMED[name])
        assert await raw.closed() == []


async def test_all_fields_are_read_in_their_order() -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("topic", 2)
        async with socket_to(node) as raw:
            will = ("topic", b"message", 1, False)
            raw.send(connect_packet("client", will=will, username="user", password=b"\xff\0"))
            await raw.expect(packets.CONNACK, b"\0\0")
        assert (await watcher.publish())[:3] == (2, "topic", b"message")


# -- the session ------------------------------------------------------------------------------


async def test_without_clean_session_the_session_is_kept_and_resumed() -> None:
    async with serving() as node, client(node, "pub") as pub:
        async with client(node, "p", clean=False) as sub:
            assert not sub.present
            await sub.subscribe("t", 1)
            sub.send(packets.DISCONNECT_PACKET)
            await sub.closed()
        pub.send(publish("t", b"1", 1, packet_id=1), publish("t", b"2", 2, packet_id=2))
        pub.send(publish("other", b"3", 1, packet_id=3))
        await pub.rest()
        async with client(node, "p", clean=False) as sub:
            assert sub.present
            assert await sub.messages() == [(2, "t", b"1"), (2, "t", b"2")]
            pub.send(publish("t", b"4"))
            await pub.rest()
            assert await sub.messages() == [(0, "t", b"4")]


async def test_clean_session_discards_what_was_before_and_leaves_nothing() -> None:
    async with serving() as node, client(node, "pub") as pub:
        for clean in (False, True, False):
            async with client(node, "p", clean=clean) as sub:
                assert not sub.present
                pub.send(publish("t", b"x", 1, packet_id=1))
                await pub.expect(packets.PUBACK)
                assert await sub.messages() == []
                await sub.subscribe("t", 1)
                sub.send(packets.DISCONNECT_PACKET)
                await sub.closed()


async def test_retained_messages_outlive_the_session_that_published_them() -> None:
    async with serving() as node:
        async with client(node, "p", clean=True) as pub:
            pub.send(publish("t", b"kept", 1, packet_id=1, retained=True))
            await pub.expect(packets.PUBACK)
        async with client(node, "p", clean=True) as again:
            await again.subscribe("t", 1)
            assert await again.messages() == [(3, "t", b"kept")]


async def test_client_ids_tell_sessions_apart() -> None:
    async with serving() as node:
        for name in ("one", "two"):
            async with client(node, name, clean=False) as sub:
                await sub.subscribe(name, 1)
                sub.send(packets.DISCONNECT_PACKET)
                await sub.closed()
        async with client(node, "pub") as pub:
            pub.send(publish("one", b"1", 1, packet_id=1), publish("two", b"2", 1, packet_id=2))
            await pub.rest()
        for name, payload in (("two", b"2"), ("one", b"1")):
            async with client(node, name, clean=False) as sub:
                assert await sub.messages() == [(2, name, payload)]


@pytest.mark.parametrize(
    "client_id",
    ["a", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ", "a-b_c/d e#"],
)
async def test_client_ids_that_must_be_taken(client_id: str) -> None:
    async with serving() as node, client(node, client_id) as raw:
        assert await raw.rest() == []


async def test_an_empty_client_id_gets_one_of_its_own() -> None:
    async with serving() as node, client(node) as one, client(node) as other:
        for raw in (one, other):  # neither took over the other
            assert await raw.subscribe("t") == 0
        one.send(publish("t", b"x"))
        assert await one.messages() == await other.messages() == [(0, "t", b"x")]


async def test_an_empty_client_id_that_wants_to_be_remembered_is_refused_with_code_2() -> None:
    async with serving() as node, socket_to(node) as raw:
        raw.send(connect_packet("", clean=False), packets.PINGREQ_PACKET)
        await raw.expect(packets.CONNACK, b"\0\2")
        assert await raw.closed() == []


@pytest.mark.parametrize("clean", [True, False])
async def test_take_over_ends_the_older_connection(clean) -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("gone")
        will = ("gone", b"w", 0, False)
        async with (
            client(node, "same", clean=clean, will=will) as old,
            client(node, "same", clean=clean) as new,
        ):
            assert await old.closed() == []
            assert (await watcher.publish())[2] == b"w"
            assert await new.subscribe("t", 1) == 1
            new.send(publish("t", b"x"))
            assert await new.messages() == [(0, "t", b"x")]


async def test_connack_comes_first_and_before_anything_that_waits() -> None:
    async with serving() as node, client(node, "pub") as pub:
        async with client(node, "p", clean=False) as sub:
            await sub.subscribe("t", 1)
            sub.send(packets.DISCONNECT_PACKET)
            await sub.closed()
        pub.send(publish("t", b"x", 1, packet_id=1))
        await pub.expect(packets.PUBACK)
        async with socket_to(node) as raw:
            raw.send(connect_packet("p", clean=False), packets.PINGREQ_PACKET)
            await raw.expect(packets.CONNACK, b"\1\0")
            kinds = {(await raw.packet())[0] for _ in range(2)}
            assert kinds == {packets.PUBLISH, packets.PINGRESP}


async def test_packets_that_follow_connect_at_once_are_served() -> None:
    async with serving() as node, socket_to(node) as raw:
        raw.send(
            connect_packet("eager"),
            packets.encode_subscribe(1, [("t", 0)]),
            publish("t", b"x"),
            packets.DISCONNECT_PACKET,
        )
        kinds = [kind for kind, _, _ in await raw.closed()]
        assert kinds[0] == packets.CONNACK
        assert packets.SUBACK in kinds[1:] or kinds == [packets.CONNACK]


# -- the will ---------------------------------------------------------------------------------


async def broken(raw) -> None:
    raw.writer.transport.abort()


async def disobedient(raw) -> None:
    raw.send(b"\xf0\0")
    await raw.closed()


ENDS = {"the socket breaks": broken, "the broker closes on an error": disobedient}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retained", [False, True])
async def test_a_will_is_published_as_it_was_left(name: str, qos: int, retained) -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("gone", 2)
        async with client(node, will=("gone", b"will", qos, retained)) as raw:
            await ENDS[name](raw)
            assert (await watcher.publish())[:3] == (qos << 1, "gone", b"will")
        async with client(node) as late:
            await late.subscribe("gone", 2)
            assert await late.messages() == ([(qos << 1 | 1, "gone", b"will")] * retained)


async def test_a_will_is_published_once() -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("gone", 1)
        async with client(node, "w", clean=False, will=("gone", b"1", 1, False)):
            pass
        assert (await watcher.publish())[2] == b"1"
        async with client(node, "w", clean=False):  # back, without a will
            pass
        async with client(node, "w", clean=False) as raw:
            await raw.rest()
        assert await watcher.messages() == []


async def test_without_a_will_nothing_is_published() -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("#", 1)
        async with client(node, "w") as raw:
            await broken(raw)
        async with client(node, "w") as raw:  # its predecessor is gone for certain
            await raw.rest()
        assert await watcher.messages() == []


async def test_disconnect_takes_the_will_away() -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("gone", 1)
        async with client(node, "w", will=("gone", b"w", 1, True)) as raw:
            raw.send(packets.DISCONNECT_PACKET)
            assert await raw.closed() == []
        assert await watcher.messages() == []
        await watcher.subscribe("gone", 1)
        assert await watcher.messages() == []


async def test_silence_of_one_and_a_half_intervals_closes_and_publishes_the_will() -> None:
    loop = asyncio.get_running_loop()
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("gone")
        started_s = loop.time()
        async with client(node, keep_alive_s=1, will=("gone", b"w", 0, False)) as raw:
            assert await raw.closed() == []
            assert loop.time() - started_s >= 1.5  # however busy the machine: never sooner
        assert (await watcher.publish())[2] == b"w"


@pytest.mark.parametrize("keep_alive_s", [0, 65_535])
async def test_without_keep_alive_silence_does_not_close(keep_alive_s: int) -> None:
    async with serving() as node, client(node, "quiet", keep_alive_s=keep_alive_s) as quiet:
        async with client(node, keep_alive_s=1) as other:
            assert await other.closed() == []  # so that much time has passed
        assert await quiet.rest() == []
