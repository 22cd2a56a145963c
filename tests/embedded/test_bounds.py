"""Each bound of the broker that test_broker.py does not meet on its way."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import fields
from pathlib import Path

import pytest

from broker.embedded import Limits, packets
from broker.embedded.token_buckets import TokenBuckets
from broker.embedded.trie import Trie
from tests.embedded.harness import client, connect_packet, running, socket_to
from tests.waiting import until

publish = packets.encode_publish
HERE = Path(__file__).parent


def test_every_limit_is_tested_somewhere() -> None:
    text = "".join(path.read_text() for path in HERE.rglob("test_*.py"))
    bounds = [field.name for field in fields(Limits) if "max" in field.name or "per" in field.name]
    assert [name for name in bounds if f"{name}=" not in text] == []


def test_an_address_has_a_burst_and_then_a_rate() -> None:
    buckets = TokenBuckets(burst=3, per_s=2.0, addresses_max=2)
    assert [buckets.take("a", 10.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert buckets.take("b", 10.0)
    assert not buckets.take("a", 10.4)
    assert [buckets.take("a", 10.6) for _ in range(2)] == [True, False]
    buckets.give_back("a")
    assert [buckets.take("a", 10.6) for _ in range(2)] == [True, False]
    assert [buckets.take("a", 99.0) for _ in range(4)] == [True] * 3 + [False]
    for other in ("c", "d"):
        buckets.take(other, 99.0)
    buckets.give_back("b")  # nobody knows it any more
    assert [buckets.take("a", 99.0) for _ in range(4)] == [True] * 3 + [False]  # and so forgiven


async def test_connections_over_the_rate_are_closed_and_the_others_served() -> None:
    limits = Limits(connections_burst_per_address=3, connections_per_address_per_s=0.001)
    async with running(limits=limits) as node, client(node) as one, client(node):
        async with client(node):
            pass
        for _ in range(3):
            async with socket_to(node) as refused:
                assert await refused.closed() == []
        await one.quiet()
        assert node.broker.statistics().counters.connections_refused == 3


async def test_bytes_that_trickle_do_not_put_off_the_end_of_patience() -> None:
    async with running(limits=Limits(connect_timeout_s=0.1)) as node, socket_to(node) as raw:
        packet = connect_packet("slow")
        closed = asyncio.ensure_future(raw.closed())
        for byte in packet[:-1]:
            raw.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert await closed == []
        assert node.broker.statistics().counters.timed_out == 1


async def test_a_connect_over_its_size_is_refused_by_its_header() -> None:
    async with running() as node, socket_to(node) as raw:
        raw.send(b"\x10\x81\x80\x05")  # 81,921 bytes
        assert await raw.closed() == []
        assert node.broker.statistics().counters.malformed == 1


async def test_the_largest_connect_passes() -> None:
    async with running() as node, socket_to(node) as raw:
        fields_ = [b"c" * 256, b"t" * 1024, bytes(65_535), b"u" * 7000, bytes(7000)]
        body = b"\0\4MQTT\4\xc6\0\0" + b"".join(len(f).to_bytes(2, "big") + f for f in fields_)
        size = len(body)
        raw.send(bytes((0x10, size & 127 | 128, size >> 7 & 127 | 128, size >> 14)), body)
        await raw.expect(packets.CONNACK, b"\0\0")


async def test_a_client_id_over_its_length_is_refused() -> None:
    async with running() as node, socket_to(node) as raw:
        name = b"x" * 257
        body = b"\0\4MQTT\4\2\0\0" + len(name).to_bytes(2, "big") + name
        raw.send(bytes((0x10, len(body) & 127 | 128, len(body) >> 7)), body)
        await raw.expect(packets.CONNACK, b"\0\2")
        assert await raw.closed() == []


async def test_packets_that_come_in_part_are_bounded_over_all_connections() -> None:
    limits = Limits(incomplete_bytes_max=300_000)
    async with running(limits=limits) as node, client(node, "good") as good:
        async with AsyncExitStack() as stack:
            hoarders = [await stack.enter_async_context(client(node)) for _ in range(4)]
            for raw in hoarders:
                raw.send(publish("t", bytes(100_000))[:-1])  # the last byte never comes
                await asyncio.wait_for(raw.writer.drain(), 10)
            gone = [asyncio.ensure_future(raw.closed()) for raw in hoarders]
            await asyncio.wait(gone, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            await good.subscribe("t")
            good.send(publish("t", bytes(1000)))
            assert (await good.publish())[2] == bytes(1000)
            assert node.broker._wires.incomplete_bytes <= 300_000
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
        await node.until(lambda: node.broker.statistics().connections == 1)
        assert node.broker._wires.incomplete_bytes == 0


@pytest.mark.parametrize("topic", ["x" * 1025, "/" * 64], ids=["long", "deep"])
async def test_a_topic_beyond_its_limit_closes_and_reaches_nobody(topic: str) -> None:
    async with running() as node, client(node) as raw:
        raw.send(publish(topic, b""))
        assert await raw.closed() == []
        assert node.published == []


async def test_subscriptions_of_all_sessions_together_are_bounded() -> None:
    limits = Limits(subscriptions_max=3)
    async with running(limits=limits) as node, client(node) as one, client(node) as other:
        assert [await one.subscribe(name, 1) for name in ("a", "b")] == [1, 1]
        assert [await other.subscribe(name, 1) for name in ("a", "b")] == [1, 0x80]
        assert await one.subscribe("a", 0) == 0  # not a new one
        one.send(packets.DISCONNECT_PACKET)
        await one.closed()
        assert await other.subscribe("b", 1) == 1


async def test_levels_of_all_subscriptions_together_are_bounded() -> None:
    limits = Limits(subscription_levels_max=10)
    async with running(limits=limits) as node, client(node) as raw:
        codes = [await raw.subscribe(f"{name}/b/c/d", 1) for name in "1234"]
        assert codes == [1, 1, 1, 0x80]  # the one that passes the limit is the last


async def test_levels_of_one_sessions_filters_are_bounded() -> None:
    limits = Limits(subscription_levels_per_session_max=10)
    async with running(limits=limits) as node, client(node) as one, client(node) as other:
        assert [await one.subscribe(name, 1) for name in ("a/b/c/d", "e/f/g/h", "i/j/k")] == [
            1,
            1,
            0x80,
        ]
        assert await other.subscribe("i/j/k", 1) == 1
        one.send(unsubscribe(["a/b/c/d"]))
        await one.expect(packets.UNSUBACK)
        assert await one.subscribe("i/j/k", 1) == 1


async def test_the_ways_in_which_wildcards_are_placed_are_bounded() -> None:
    """So a topic is looked for along so many levels at most, whatever is subscribed to."""
    limits = Limits(subscription_shapes_max=20)
    async with running(limits=limits) as node, client(node, "c") as raw:
        words = [
            ["+" if number >> place & 1 else "x" for place in range(6)] for number in range(64)
        ]
        codes = [await raw.subscribe("/".join(each), 1) for each in words]
        assert codes.count(1) < 20
        assert await raw.subscribe("x/y/z/#", 1) == 1  # nobody's exact filter is refused for it
        trie = node.broker._exchange.trie
        assert trie.shapes <= 20 + 6
        for each in words:
            trie.remove("/".join(each), node.broker._exchange.sessions["c"])
        trie.remove("x/y/z/#", node.broker._exchange.sessions["c"])
        assert trie.shapes == 0


def test_the_trie_counts_its_levels() -> None:
    trie: Trie[int] = Trie()
    for topic_filter in ("a/b/c", "a/b", "a/+/c", "#"):
        trie.add(topic_filter, 1, 0)
    assert trie.levels == 6
    for topic_filter in ("a/b/c", "never/there", "a/+/c", "#", "a/b"):
        trie.remove(topic_filter, 1)
    assert (trie.levels, len(trie)) == (0, 0)


async def test_a_subscribe_without_end_lets_the_others_have_their_turn() -> None:
    async with running() as node, client(node) as bomber, client(node) as other:
        for number in range(300):
            node.retained[f"r/{number}"] = (b"x", 0)
        filters = [(f"none/{number}/+", 0) for number in range(1000)]
        bomber.send(packets.encode_subscribe(1, filters), packets.PINGREQ_PACKET)
        other.send(packets.PINGREQ_PACKET)
        await other.expect(packets.PINGRESP)
        assert node.broker.statistics().subscriptions < 1000  # served in between
        await bomber.expect(packets.SUBACK, b"\0\1" + bytes(1000))
        await bomber.expect(packets.PINGRESP)


async def test_all_clients_have_one_slice_of_a_turn_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten that send without end cost the rest of the device no more than one, and each has its turn."""
    async with running() as node, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(node)) for _ in range(10)]
        slices = node.broker._wires.slices
        monkeypatch.setattr(slices, "_slice_s", 0.0)  # over as soon as it begins
        for raw in clients:
            raw.send(packets.encode_subscribe(1, [(f"t/{number}", 0) for number in range(20)]))
        await until(lambda: len(slices._waiting) == len(clients), "all to wait")
        assert not node.broker.statistics().subscriptions
        monkeypatch.setattr(slices, "_slice_s", 1.0)
        for raw in clients:
            await raw.expect(packets.SUBACK, b"\0\1" + bytes(20))
            await raw.quiet()


async def test_a_link_does_not_wait_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as node, client(node, "mesh-b") as link, client(node) as raw:
        await link.subscribe("mesh/v1/b/self")
        monkeypatch.setattr(node.broker._wires.slices, "_slice_s", 0.0)
        raw.send(publish("t", bytes(4096)))  # too large to go unseen
        link.send(publish("mesh/v1/self/b", b"frame"))
        await node.until(lambda: node.frames)
        assert list(node.frames) == [("b", b"frame")]
        assert not node.published


def unsubscribe(filters: list[str]) -> bytes:
    body = b"\0\2" + b"".join(packets.string_field(name) for name in filters)
    return bytes((0xA2, len(body))) + body


@pytest.mark.parametrize(
    "packet",
    [packets.encode_subscribe(1, [("t", 0)] * 4), unsubscribe(["t"] * 4)],
    ids=["subscribe", "unsubscribe"],
)
async def test_more_filters_than_a_session_may_have_close(packet: bytes) -> None:
    limits = Limits(subscriptions_per_session_max=3)
    async with running(limits=limits) as node, client(node) as raw:
        raw.send(packet)
        assert await raw.closed() == []
        assert node.broker.statistics().counters.malformed == 1


async def test_bytes_that_wait_for_a_slow_reader_are_bounded_as_messages_are() -> None:
    limits = Limits(
        inflight_messages_max=1, kept_queue_messages_max=1000, kept_queue_bytes_max=50_000
    )
    async with running(limits=limits) as node, client(node, "pub") as pub:
        async with client(node, "slow", clean=False) as slow:
            await slow.subscribe("t", 1)
            pub.send(*(publish("t", bytes(10_000), 1, packet_id=1) for _ in range(8)))
            assert len(await slow.closed()) <= 1
        counters = node.broker.statistics().counters
        assert counters.slow_consumers == 1
        assert counters.last_slow_consumer.startswith("slow: ")
        async with client(node, "slow", clean=False) as slow:
            got = 0
            while (packet := await slow.rest()) != []:
                for kind, flags, body in packet:
                    if kind == packets.PUBLISH:
                        got += 1
                        number = packets.parse_publish(flags, body)[2]
                        slow.send(packets.encode_ack(packets.PUBACK, number))
            assert got + counters.dropped_offline <= 8
            assert 1 <= got <= 6


async def test_what_waits_for_all_sessions_together_is_bounded() -> None:
    limits = Limits(kept_bytes_max=200_000)
    async with running(limits=limits) as node, client(node, "pub") as pub:
        for name in ("modest", "greedy"):
            async with client(node, name, clean=False) as sub:
                await sub.subscribe("all", 1)
                await sub.subscribe(name, 1)
        pub.send(publish("all", b"first", 1, packet_id=1))
        await pub.expect(packets.PUBACK)
        for number in range(100):
            pub.send(publish("greedy", number.to_bytes(1, "big") * 10_000, 1, packet_id=1))
            await pub.expect(packets.PUBACK)
        sessions = node.broker._exchange.sessions.values()
        assert sum(session.kept_bytes for session in sessions) < 220_000
        assert node.broker.statistics().counters.dropped_offline > 50
        async with client(node, "modest", clean=False) as modest:
            assert [payload for _, _, payload in await modest.messages()] == [b"first"]
        async with client(node, "greedy", clean=False) as greedy:
            kept = [payload[0] for _, _, payload in await greedy.messages()]
            assert kept == list(range(100 - len(kept), 100))  # the newest


async def test_empty_messages_that_wait_for_all_sessions_together_are_bounded() -> None:
    limits = Limits(kept_bytes_max=50_000)
    async with running(limits=limits) as node, client(node, "pub") as pub:
        for name in ("a", "b"):
            async with client(node, name, clean=False) as sub:
                await sub.subscribe("t", 1)
        for _ in range(400):
            pub.send(publish("t", b"", 1, packet_id=1))
            await pub.expect(packets.PUBACK)
        sessions = node.broker._exchange.sessions.values()
        assert sum(session.kept_bytes for session in sessions) < 55_000
        assert node.broker.statistics().counters.dropped_offline > 0


async def test_what_is_in_flight_for_all_sessions_together_is_bounded() -> None:
    limits = Limits(kept_bytes_max=100_000)
    async with (
        running(limits=limits) as node,
        client(node, "pub") as pub,
        AsyncExitStack() as stack,
    ):
        for number in range(4):
            sub = await stack.enter_async_context(client(node, f"s{number}", clean=False))
            await sub.subscribe("t", 1)
        for _ in range(10):
            pub.send(publish("t", bytes(10_000), 1, packet_id=1))
            await pub.rest()
        sessions = node.broker._exchange.sessions.values()
        assert sum(session.kept_bytes for session in sessions) < 150_000
        assert node.broker.statistics().counters.slow_consumers > 0


async def test_bytes_in_flight_are_bounded() -> None:
    limits = Limits(inflight_bytes_max=25_000)
    async with running(limits=limits) as node, client(node) as pub, client(node) as sub:
        await sub.subscribe("t", 1)
        pub.send(*(publish("t", bytes(10_000), 1, packet_id=1) for _ in range(6)))
        first = [await sub.publish() for _ in range(3)]  # the third begins below the limit
        await sub.quiet()
        for entry in first:
            sub.send(packets.encode_ack(packets.PUBACK, entry[3]))
        assert len([await sub.publish() for _ in range(3)]) == 3


async def test_retained_messages_on_their_way_to_one_subscriber_are_bounded() -> None:
    limits = Limits(replay_messages_max=100)
    async with running(limits=limits) as node, client(node, "greedy") as greedy:
        for number in range(60):
            node.retained[f"r/{number}"] = (b"x", 0)
        greedy.send(packets.encode_subscribe(1, [("r/#", 0), ("r/+", 0)]))
        await greedy.closed()
        assert node.broker.statistics().counters.slow_consumers == 1


async def test_qos2_messages_that_are_never_released_are_bounded() -> None:
    async with running(limits=Limits(incoming_qos2_max=3)) as node, client(node) as pub:
        pub.send(*(publish("t", b"", 2, packet_id=number) for number in range(1, 5)))
        found = await pub.closed()
        assert len(node.published) == 3
        assert all(kind == packets.PUBREC for kind, _, _ in found)


async def test_the_topics_that_a_session_may_write_are_remembered_up_to_a_limit() -> None:
    async with running(limits=Limits(writable_topics_max=3)) as node, client(node, "c") as raw:
        for number in range(1, 11):
            raw.send(publish(f"t/{number}", b"x", 1, packet_id=number))
            await raw.expect(packets.PUBACK)
            assert 0 < len(node.broker._exchange.sessions["c"].writable) <= 3


async def test_wills_are_bounded_over_all_connections_and_given_back() -> None:
    limits = Limits(wills_bytes_max=100)
    async with running(limits=limits) as node:
        will = ("gone", bytes(50), 0, False)
        async with client(node, "one", will=will) as one:
            async with client(node, "none"), socket_to(node) as raw:
                raw.send(connect_packet("two", will=will))
                await raw.expect(packets.CONNACK, b"\0\3")
                assert await raw.closed() == []
            assert node.broker.statistics().counters.wills_refused == 1
            one.send(packets.DISCONNECT_PACKET)
            assert await one.closed() == []
        small = ("gone", b"w", 0, False)
        async with client(node, "three", will=small), client(node, "three", will=small):
            pass  # taken over: the first one's will was published
        await node.until(lambda: node.broker.statistics().connections == 0)
        assert [topic for topic, *_ in node.published] == ["gone"] * 2
        assert node.broker._wires.wills_bytes == 0
