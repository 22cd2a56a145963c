"""Sections 3.8 to 3.11: SUBSCRIBE, UNSUBSCRIBE and their answers."""

import pytest

from broker.embedded import packets
from tests.embedded.conformance.broker import serving
from tests.embedded.harness import client

publish = packets.encode_publish
ack = packets.encode_ack


def unsubscribe(packet_id: int, *filters: str) -> bytes:
    body = packet_id.to_bytes(2, "big") + b"".join(map(packets.string_field, filters))
    return bytes((0xA2, len(body))) + body


MALFORMED = {
    "SUBSCRIBE without a filter": b"\x82\2\0\1",
    "SUBSCRIBE without a packet id": b"\x82\0",
    "SUBSCRIBE without a QoS": b"\x82\5\0\1\0\1t",
    "SUBSCRIBE with QoS 3": b"\x82\6\0\1\0\1t\3",
    "SUBSCRIBE with a reserved bit": b"\x82\6\0\1\0\1t\4",
    "SUBSCRIBE with the highest bit": b"\x82\6\0\1\0\1t\x80",
    "SUBSCRIBE whose second filter is cut off": b"\x82\x0a\0\1\0\1t\0\0\2uv",
    "UNSUBSCRIBE without a filter": b"\xa2\2\0\1",
    "UNSUBSCRIBE whose filter is cut off": b"\xa2\5\0\1\0\2t",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_closes(name: str) -> None:
    async with serving() as node, client(node) as raw:
        raw.send(MALFORMED[name])
        assert await raw.closed() == []


async def test_a_suback_has_a_code_for_each_filter_in_order() -> None:
    async with serving() as node, client(node) as raw:
        asked = [("a", 2), ("b", 0), ("c/#", 1), ("a", 1), ("+/d", 2)]
        raw.send(packets.encode_subscribe(0x1234, asked))
        await raw.expect(packets.SUBACK, b"\x12\x34\2\0\1\1\2")


async def test_many_filters_count_as_many_subscribes() -> None:
    async with serving() as node, client(node) as raw:
        raw.send(publish("r", b"kept", 1, packet_id=1, retained=True))
        await raw.expect(packets.PUBACK)
        raw.send(packets.encode_subscribe(2, [("r", 0), ("s", 1), ("r", 1)]))
        await raw.expect(packets.SUBACK, b"\0\2\0\1\1")
        assert [flags for flags, _, _ in await raw.messages()] == [1, 3]  # once per SUBSCRIBE
        for topic in ("r", "s"):  # the last one counts
            raw.send(publish(topic, b"x", 1, packet_id=3))
            assert [flags for flags, _, _ in await raw.messages()] == [2]


async def test_nobody_receives_what_it_did_not_subscribe() -> None:
    async with serving() as node, client(node) as pub:
        pub.send(publish("a/b", b"old", 1, packet_id=1, retained=True))
        await pub.rest()
        async with client(node) as none, client(node) as other, client(node) as third:
            await other.subscribe("a/c", 1)
            await third.subscribe("a", 1)
            pub.send(publish("a/b", b"new", 1, packet_id=2))
            await pub.rest()
            for raw in (none, other, third):
                assert await raw.messages() == []


async def test_subscribing_again_replaces_the_qos_and_sends_retained_again() -> None:
    async with serving() as node, client(node) as raw:
        raw.send(publish("r", b"kept", 1, packet_id=1, retained=True))
        await raw.rest()
        for qos in (0, 1, 0):
            assert await raw.subscribe("r", qos) == qos
            assert await raw.messages() == [(qos << 1 | 1, "r", b"kept")]
            raw.send(publish("r", b"live", 1, packet_id=2))
            assert await raw.messages() == [(qos << 1, "r", b"live")]


async def test_subscribing_again_interrupts_nothing() -> None:
    async with serving() as node, client(node) as pub, client(node) as sub:
        await sub.subscribe("t", 1)
        for number in range(200):
            pub.send(publish("t", b"%d" % number, 1, packet_id=number + 1))
            if number % 20 == 0:
                sub.send(packets.encode_subscribe(2, [("t", 1)]))
        seen = []
        while len(seen) < 200:
            kind, flags, body = await sub.packet()
            if kind == packets.PUBLISH:
                seen.append(int(packets.parse_publish(flags, body)[1]))
        assert seen == list(range(200))


@pytest.mark.parametrize("published", [0, 1, 2])
async def test_overlapping_subscriptions_count_with_the_highest_qos(published: int) -> None:
    async with serving() as node, client(node) as pub, client(node) as sub:
        for topic_filter, qos in (("a/#", 2), ("a/+", 0), ("a/b", 1), ("+/b", 0)):
            await sub.subscribe(topic_filter, qos)
        pub.send(publish("a/b", b"x", published, packet_id=1))
        await pub.rest()
        found = await sub.messages()
        # The standard lets a broker send one per subscription; this one sends one.
        assert found == [(published << 1, "a/b", b"x")]


async def test_unsubscribe_is_answered_whether_or_not_it_ends_anything() -> None:
    async with serving() as node, client(node) as raw:
        await raw.subscribe("t")
        for packet_id, topic_filter in ((7, "never"), (8, "t"), (9, "t")):
            raw.send(unsubscribe(packet_id, topic_filter))
            await raw.expect(packets.UNSUBACK, packet_id.to_bytes(2, "big"))


async def test_unsubscribe_compares_character_by_character() -> None:
    async with serving() as node, client(node) as raw:
        for topic_filter in ("a/+", "a/b", "A/b"):
            await raw.subscribe(topic_filter)
        for other in ("a/#", "+/+", "a/b/", "/a/b", "#"):
            raw.send(unsubscribe(1, other))
            await raw.expect(packets.UNSUBACK)
        raw.send(publish("a/b", b"x"), publish("A/b", b"x"))
        assert [topic for _, topic, _ in await raw.messages()] == ["a/b", "A/b"]
        raw.send(unsubscribe(1, "a/b"))
        await raw.expect(packets.UNSUBACK)
        raw.send(publish("a/b", b"y"))
        assert await raw.messages() == [(0, "a/b", b"y")]  # by a/+ still
        raw.send(unsubscribe(1, "a/+", "A/b"))
        await raw.expect(packets.UNSUBACK)
        raw.send(publish("a/b", b"z"), publish("A/b", b"z"))
        assert await raw.messages() == []


async def test_unsubscribe_ends_new_messages_and_completes_those_in_flight() -> None:
    async with serving() as node:
        async with client(node, "s", clean=False) as sub:
            await sub.subscribe("t", 2)
            sub.send(publish("t", b"1", 1, packet_id=1), publish("t", b"2", 2, packet_id=2))
            await sub.rest()
            sub.send(unsubscribe(3, "t"), publish("t", b"3", 1, packet_id=3))
            assert await sub.messages() == []
        async with client(node, "s", clean=False) as sub:
            one, two = await sub.publish(), await sub.publish()
            assert (one[0], two[0]) == (2 | 8, 4 | 8)
            sub.send(ack(packets.PUBACK, one[3]), ack(packets.PUBREC, two[3]))
            await sub.expect(packets.PUBREL)
            sub.send(ack(packets.PUBCOMP, two[3]))
            assert await sub.rest() == []


async def test_many_filters_are_unsubscribed_with_one_answer() -> None:
    async with serving() as node, client(node) as raw:
        for topic in ("a", "b", "c"):
            await raw.subscribe(topic)
        raw.send(unsubscribe(5, "a", "none", "c"))
        assert await raw.rest() == [(packets.UNSUBACK, 0, b"\0\5")]
        for topic in ("a", "b", "c"):
            raw.send(publish(topic, b""))
        assert [topic for _, topic, _ in await raw.messages()] == ["b"]
