"""Sections 3.3 to 3.7 and 4.3: PUBLISH, and the packets that acknowledge it."""

import pytest

from broker.embedded import packets
from tests.embedded.conformance.broker import serving
from tests.embedded.harness import client

publish = packets.encode_publish
ack = packets.encode_ack


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
async def test_a_message_arrives_at_the_lower_qos(qos: int, granted: int) -> None:
    async with serving() as node, client(node) as pub, client(node) as sub:
        assert await sub.subscribe("t", granted) == granted
        pub.send(publish("t", b"payload", qos, packet_id=7))
        lower = min(qos, granted)
        flags, topic, payload, packet_id = await sub.publish()
        assert (flags, topic, payload) == (lower << 1, "t", b"payload")
        assert bool(packet_id) == bool(lower)


@pytest.mark.parametrize(("qos", "answer"), [(0, None), (1, packets.PUBACK), (2, packets.PUBREC)])
async def test_each_qos_is_answered_as_it_should_be(qos: int, answer: int | None) -> None:
    async with serving() as node, client(node) as pub:
        pub.send(publish("nobody/listens", b"", qos, packet_id=300))
        found = await pub.rest()
        assert found == ([] if answer is None else [(answer, 0, b"\1\x2c")])


async def test_dup_is_not_passed_on() -> None:
    async with serving() as node, client(node) as pub, client(node) as sub:
        await sub.subscribe("t", 2)
        pub.send(publish("t", b"1", 1, packet_id=1, duplicate=True))
        pub.send(publish("t", b"2", 2, packet_id=2, duplicate=True))
        await pub.rest()
        assert await sub.messages() == [(2, "t", b"1"), (4, "t", b"2")]


MALFORMED = {
    "QoS 3": b"\x36\5\0\1t\0\1",
    "DUP at QoS 0": b"\x38\3\0\1t",
    "no topic": b"\x30\0",
    "a topic that is cut off": b"\x30\3\0\2t",
    "no packet id": b"\x32\3\0\1t",
    "half a packet id": b"\x32\4\0\1t\1",
    "an empty topic": b"\x30\2\0\0",
    "+ in a topic": publish("a/+/b", b""),
    "# in a topic": publish("a/#", b""),
    "+ inside a level": publish("a+", b""),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_publish_closes_and_reaches_nobody(name: str) -> None:
    async with serving() as node, client(node) as watcher:
        await watcher.subscribe("#")
        async with client(node) as raw:
            raw.send(MALFORMED[name])
            assert await raw.closed() == []
        assert await watcher.messages() == []


# -- RETAIN -----------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_retained_message_waits_for_subscribers_with_its_qos(qos: int) -> None:
    async with serving() as node, client(node) as pub:
        pub.send(publish("r", b"old", 1, packet_id=1, retained=True))
        pub.send(publish("r", b"new", qos, packet_id=2, retained=True))
        await pub.rest()
        for granted in (0, 1, 2):
            async with client(node) as sub:
                await sub.subscribe("+", granted)
                assert await sub.messages() == [(min(qos, granted) << 1 | 1, "r", b"new")]


async def test_live_messages_carry_no_retain() -> None:
    async with serving() as node, client(node) as pub, client(node) as sub:
        await sub.subscribe("r", 1)
        pub.send(publish("r", b"x", 1, packet_id=1, retained=True))
        await pub.rest()
        assert await sub.messages() == [(2, "r", b"x")]


async def test_an_empty_retained_message_is_delivered_and_removes() -> None:
    async with serving() as node, client(node) as pub, client(node) as sub:
        await sub.subscribe("r", 1)
        pub.send(publish("r", b"x", 1, packet_id=1, retained=True))
        pub.send(publish("r", b"", 1, packet_id=2, retained=True))
        await pub.rest()
        assert await sub.messages() == [(2, "r", b"x"), (2, "r", b"")]
        async with client(node) as late:
            await late.subscribe("r", 1)
            await late.subscribe("#", 1)
            assert await late.messages() == []


async def test_without_retain_nothing_is_stored_nor_removed() -> None:
    async with serving() as node, client(node) as pub:
        pub.send(publish("r", b"kept", 1, packet_id=1, retained=True))
        pub.send(publish("r", b"live", 1, packet_id=2), publish("r", b"", 1, packet_id=3))
        pub.send(publish("other", b"live", 1, packet_id=4))
        await pub.rest()
        async with client(node) as late:
            await late.subscribe("#", 1)
            assert await late.messages() == [(3, "r", b"kept")]


async def test_retained_messages_match_as_live_ones_do() -> None:
    filters = {
        "a/b": {"a/b"},
        "a/+": {"a/b", "a/c", "a/"},
        "a/#": {"a", "a/b", "a/c", "a/", "a/b/c"},
        "+/+": {"a/b", "a/c", "a/", "/a"},
        "+": {"a"},
        "/+": {"/a"},
        "#": {"a", "a/b", "a/c", "a/", "a/b/c", "/a"},
        "A/b": set(),
    }
    async with serving() as node, client(node) as pub:
        for number, topic in enumerate(sorted(filters["#"])):
            pub.send(publish(topic, b"x", 1, packet_id=number + 1, retained=True))
        await pub.rest()
        for topic_filter, topics in filters.items():
            async with client(node) as sub:
                await sub.subscribe(topic_filter, 1)
                found = [topic for _, topic, _ in await sub.messages()]
                assert sorted(found) == sorted(topics), topic_filter


# -- QoS 1 ------------------------------------------------------------------------------------


async def test_a_packet_id_is_free_once_it_was_acknowledged_at_qos1() -> None:
    async with serving() as node, client(node) as pub, client(node) as sub:
        await sub.subscribe("t", 1)
        for payload in (b"1", b"2"):
            pub.send(publish("t", payload, 1, packet_id=9, duplicate=payload == b"2"))
            await pub.expect(packets.PUBACK, b"\0\x09")
        assert await sub.messages() == [(2, "t", b"1"), (2, "t", b"2")]


async def test_what_is_not_acknowledged_is_not_sent_again_on_the_same_connection() -> None:
    async with serving() as node, client(node) as sub:
        await sub.subscribe("t", 2)
        sub.send(publish("t", b"1", 1, packet_id=1), publish("t", b"2", 2, packet_id=2))
        assert len(await sub.messages()) == 2
        for _ in range(3):
            assert await sub.rest() == []


# -- QoS 2, the broker receiving ----------------------------------------------------------------


async def test_a_repetition_at_qos2_is_answered_and_delivered_once() -> None:
    async with serving() as node, client(node) as sub:
        await sub.subscribe("t", 2)
        async with client(node, "p", clean=False) as pub:
            pub.send(publish("t", b"x", 2, packet_id=5))
            await pub.expect(packets.PUBREC, b"\0\5")
            pub.send(publish("t", b"x", 2, packet_id=5, duplicate=True))
            await pub.expect(packets.PUBREC, b"\0\5")
        async with client(node, "p", clean=False) as pub:  # and over a lost connection
            assert pub.present
            pub.send(publish("t", b"x", 2, packet_id=5, duplicate=True))
            await pub.expect(packets.PUBREC, b"\0\5")
            pub.send(ack(packets.PUBREL, 5))
            await pub.expect(packets.PUBCOMP, b"\0\5")
            assert await sub.messages() == [(4, "t", b"x")]


async def test_a_packet_id_is_free_once_it_was_completed_at_qos2() -> None:
    async with serving() as node, client(node) as pub, client(node) as sub:
        await sub.subscribe("t", 1)
        for payload in (b"1", b"2"):
            pub.send(publish("t", payload, 2, packet_id=5))
            await pub.expect(packets.PUBREC, b"\0\5")
            pub.send(ack(packets.PUBREL, 5))
            await pub.expect(packets.PUBCOMP, b"\0\5")
        assert await sub.messages() == [(2, "t", b"1"), (2, "t", b"2")]


async def test_a_pubrel_is_answered_however_often_it_comes() -> None:
    async with serving() as node:
        async with client(node, "p", clean=False) as pub:
            pub.send(publish("t", b"x", 2, packet_id=5))
            await pub.expect(packets.PUBREC)
            pub.send(ack(packets.PUBREL, 5), ack(packets.PUBREL, 5))
            await pub.expect(packets.PUBCOMP, b"\0\5")
            await pub.expect(packets.PUBCOMP, b"\0\5")
        async with client(node, "p", clean=False) as pub:
            pub.send(ack(packets.PUBREL, 5))
            await pub.expect(packets.PUBCOMP, b"\0\5")


# -- QoS 2, the broker sending ------------------------------------------------------------------


async def test_a_delivery_at_qos2_goes_through_its_four_packets() -> None:
    async with serving() as node, client(node) as pub, client(node) as sub:
        await sub.subscribe("t", 2)
        pub.send(publish("t", b"x", 2, packet_id=1))
        flags, _, _, packet_id = await sub.publish()
        assert flags == 4
        sub.send(ack(packets.PUBREC, packet_id))
        body = packet_id.to_bytes(2, "big")
        assert await sub.packet() == (packets.PUBREL, 2, body)
        sub.send(ack(packets.PUBREC, packet_id))  # again, as if PUBREL had been lost
        assert await sub.packet() == (packets.PUBREL, 2, body)
        sub.send(ack(packets.PUBCOMP, packet_id))
        assert await sub.rest() == []


STAGES = {"PUBLISH": 0, "PUBREC": 1, "PUBREL": 2}


@pytest.mark.parametrize("stage", STAGES)
async def test_a_delivery_at_qos2_goes_on_where_it_was_left(stage: str) -> None:
    """The connection ends after the subscriber has seen PUBLISH, sent PUBREC, or seen PUBREL."""
    async with serving() as node, client(node, "pub") as pub:
        async with client(node, "s", clean=False) as sub:
            await sub.subscribe("t", 2)
            pub.send(publish("t", b"x", 2, packet_id=1))
            _, _, _, packet_id = await sub.publish()
            if stage != "PUBLISH":
                sub.send(ack(packets.PUBREC, packet_id))
                await sub.expect(packets.PUBREL)
        body = packet_id.to_bytes(2, "big")
        for _ in range(2):  # and once more, should this connection break, too
            async with client(node, "s", clean=False) as sub:
                if stage == "PUBLISH":
                    assert await sub.publish() == (4 | 8, "t", b"x", packet_id)
                else:
                    await sub.expect(packets.PUBREL, body)
                assert await sub.rest() == []
        async with client(node, "s", clean=False) as sub:
            await sub.packet()
            if stage == "PUBLISH":
                sub.send(ack(packets.PUBREC, packet_id))
                await sub.expect(packets.PUBREL, body)
            sub.send(ack(packets.PUBCOMP, packet_id))
            await sub.rest()
        async with client(node, "s", clean=False) as sub:
            assert await sub.rest() == []


@pytest.mark.parametrize("kind", ["PUBACK", "PUBREC", "PUBCOMP"])
async def test_acknowledgements_of_nothing_change_nothing(kind: str) -> None:
    async with serving() as node, client(node) as raw:
        await raw.subscribe("t", 1)
        raw.send(ack(getattr(packets, kind), 77))
        found = await raw.rest()
        assert found in ([], [(packets.PUBREL, 2, b"\0\x4d")])
        raw.send(publish("t", b"x"))
        assert await raw.messages() == [(0, "t", b"x")]


async def test_an_acknowledgement_of_the_wrong_kind_leaves_the_message_in_flight() -> None:
    async with serving() as node:
        async with client(node, "s", clean=False) as sub:
            await sub.subscribe("t", 2)
            sub.send(publish("t", b"1", 1, packet_id=1), publish("t", b"2", 2, packet_id=2))
            got = {}
            while len(got) < 2:
                kind, flags, body = await sub.packet()
                if kind == packets.PUBLISH:
                    got[flags >> 1] = packets.parse_publish(flags, body)[2]
            sub.send(ack(packets.PUBCOMP, got[1]), ack(packets.PUBACK, got[2]))
            await sub.rest()
        async with client(node, "s", clean=False) as sub:
            assert await sub.messages() == [(2 | 8, "t", b"1"), (4 | 8, "t", b"2")]
