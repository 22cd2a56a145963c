"""Sections 4.1 and 4.4 to 4.6: what a session holds, what comes again, and in which order."""

import pytest

from broker.embedded import packets
from tests.embedded.conformance.broker import serving
from tests.embedded.harness import client

publish = packets.encode_publish
ack = packets.encode_ack


async def test_what_is_in_flight_comes_again_with_dup_and_its_packet_id_in_order() -> None:
    async with serving() as node, client(node, "pub") as pub:
        async with client(node, "s", clean=False) as sub:
            await sub.subscribe("t", 2)
            for number in range(1, 7):
                pub.send(publish("t", b"%d" % number, 1 + number % 2, packet_id=number))
            first = [await sub.publish() for _ in range(6)]
            sub.send(ack(packets.PUBACK, first[1][3]))  # number 2 is done
            sub.send(ack(packets.PUBREC, first[2][3]))  # of number 3 only PUBREL is left
            await sub.expect(packets.PUBREL)
        async with client(node, "s", clean=False) as sub:
            found = await sub.rest()
            again = [
                (flags, *packets.parse_publish(flags, body))
                for kind, flags, body in found
                if kind == packets.PUBLISH
            ]
            assert again == [(flags | 8, *rest) for flags, *rest in (first[0], *first[3:])]
            released = [body for kind, _, body in found if kind == packets.PUBREL]
            assert released == [first[2][3].to_bytes(2, "big")]


async def test_messages_for_an_absent_client_wait_in_order_without_retain_or_dup() -> None:
    async with serving() as node, client(node, "pub") as pub:
        async with client(node, "s", clean=False) as sub:
            await sub.subscribe("t/#", 2)
        for number in range(1, 51):
            retained = number % 5 == 0
            pub.send(publish("t/x", b"%d" % number, 1, packet_id=number, retained=retained))
        pub.send(publish("t/x", b"fresh"))
        await pub.rest()
        async with client(node, "s", clean=False) as sub:
            found = [
                (flags, payload)
                for flags, _, payload in await sub.messages()
                if payload != b"fresh"
            ]
            assert found == [(2, b"%d" % number) for number in range(1, 51)]


async def test_a_message_belongs_to_the_sessions_that_match_when_it_is_taken() -> None:
    async with serving() as node, client(node, "pub") as pub:
        for name, topic_filter in (("one", "a/#"), ("two", "a/b"), ("three", "c")):
            async with client(node, name, clean=False) as sub:
                await sub.subscribe(topic_filter, 1)
        pub.send(publish("a/b", b"x", 1, packet_id=1))
        await pub.expect(packets.PUBACK)
        for name, expected in (("one", [b"x"]), ("two", [b"x"]), ("three", [])):
            async with client(node, name, clean=False) as sub:
                assert [payload for _, _, payload in await sub.messages()] == expected


async def test_a_session_holds_as_long_as_the_connection() -> None:
    async with serving() as node, client(node, "s") as sub, client(node, "pub") as pub:
        await sub.subscribe("t", 1)
        for number in range(1, 301):  # beyond any window
            pub.send(publish("t", b"", 1, packet_id=number))
            _, _, _, packet_id = await sub.publish()
            sub.send(ack(packets.PUBACK, packet_id))
        pub.send(publish("t", b"last", 1, packet_id=301))
        assert (await sub.publish())[2] == b"last"


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_messages_of_one_topic_and_qos_arrive_in_the_order_of_their_publisher(
    qos: int,
) -> None:
    async with (
        serving() as node,
        client(node, "one") as one,
        client(node, "two") as two,
        client(node, "sub") as sub,
    ):
        await sub.subscribe("#", qos)
        for number in range(1, 201):
            one.send(publish("t", b"1%03d" % number, qos, packet_id=number))
            two.send(publish("t", b"2%03d" % number, qos, packet_id=number))
        seen = []
        while len(seen) < 400:
            _, _, payload, packet_id = await sub.publish()
            seen.append(payload)
            if qos == 1:
                sub.send(ack(packets.PUBACK, packet_id))
        for publisher in (b"1", b"2"):
            numbers = [int(payload[1:]) for payload in seen if payload[:1] == publisher]
            assert numbers == list(range(1, 201))
