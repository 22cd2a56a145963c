"""The broker through raw sockets: delivery, sessions, wills, keep-alive, bounds."""

import asyncio

import pytest

from broker.embedded import Limits, packets
from tests.embedded.harness import client, connect_packet, running, socket_to

publish = packets.encode_publish


async def test_each_qos_arrives_at_the_lower_of_publish_and_subscription() -> None:
    async with running() as node, client(node, "pub") as pub:
        for granted in (0, 1, 2):
            async with client(node, f"sub{granted}") as sub:
                assert await sub.subscribe("t", granted) == granted
                for qos in (0, 1, 2):
                    pub.send(publish("t", b"x", qos, packet_id=9))
                    flags, topic, payload, packet_id = await sub.publish()
                    assert (flags, topic, payload) == (min(qos, granted) << 1, "t", b"x")
                    assert bool(packet_id) == bool(flags)
                    if flags == 2:
                        sub.send(packets.encode_ack(packets.PUBACK, packet_id))
                    elif flags == 4:
                        sub.send(packets.encode_ack(packets.PUBREC, packet_id))
                        await sub.expect(packets.PUBREL, packet_id.to_bytes(2, "big"))
                        sub.send(packets.encode_ack(packets.PUBCOMP, packet_id))
                    if qos == 1:
                        await pub.expect(packets.PUBACK, b"\0\x09")
                    elif qos == 2:
                        await pub.expect(packets.PUBREC, b"\0\x09")
                        pub.send(packets.encode_ack(packets.PUBREL, 9))
                        await pub.expect(packets.PUBCOMP, b"\0\x09")
                await sub.quiet()


async def test_acknowledgements_wait_for_the_commit() -> None:
    async with running() as node, client(node) as pub:
        node.hold = True
        pub.send(publish("t", b"1", 1, packet_id=1), publish("t", b"2", 2, packet_id=2))
        await node.until(lambda: len(node.published) == 2)
        assert node.broker.statistics().counters.bytes_out == 4  # the CONNACK
        node.flush()
        await pub.expect(packets.PUBACK, b"\0\x01")
        await pub.expect(packets.PUBREC, b"\0\x02")


async def test_acknowledgements_at_qos2_keep_their_order() -> None:
    async with running() as node, client(node) as pub, client(node) as sub:
        await sub.subscribe("t", 2)
        for number in range(1, 51):
            pub.send(publish("t", b"", 2, packet_id=number))
        for number in range(1, 51):
            await pub.expect(packets.PUBREC, number.to_bytes(2, "big"))
        received = [(await sub.publish())[3] for _ in range(50)]
        sub.send(*(packets.encode_ack(packets.PUBREC, number) for number in received))
        for number in received:
            await sub.expect(packets.PUBREL, number.to_bytes(2, "big"))


async def test_without_a_commit_nothing_is_acknowledged_and_repetition_counts() -> None:
    async with running() as node:
        node.hold = True
        async with client(node, "p", clean=False) as pub, client(node, "other") as other:
            pub.send(publish("t", b"x", 2, packet_id=5))
            other.send(publish("t", b"y", 0))
            await node.until(lambda: len(node.published) == 2)
            node.committed = False
            node.flush()
            assert await pub.closed() == []
            node.committed = True
            node.hold = False
            await other.quiet()
        async with client(node, "p", clean=False) as pub:
            pub.send(publish("t", b"x", 2, packet_id=5, duplicate=True))
            await pub.expect(packets.PUBREC, b"\0\x05")
            pub.send(publish("t", b"x", 2, packet_id=5, duplicate=True))
            await pub.expect(packets.PUBREC, b"\0\x05")
        assert sorted(entry[1] for entry in node.published) == [b"x", b"x", b"y"]
        assert node.broker.statistics().counters.not_committed == 1


async def test_a_refused_publish_is_tried_again_and_never_acknowledged_early() -> None:
    limits = Limits(refused_retry_s=0.001)
    async with running(limits=limits) as node, client(node) as pub:
        node.refuse = 5
        pub.send(publish("t", b"1", 1, packet_id=1), publish("t", b"2", 1, packet_id=2))
        await pub.expect(packets.PUBACK, b"\0\x01")
        await pub.expect(packets.PUBACK, b"\0\x02")
        assert [entry[1] for entry in node.published] == [b"1", b"2"]
        node.refuse = 1
        pub.send(publish("t", b"lost"), publish("t", b"3"))
        await pub.quiet()
        assert node.published[-1][1] == b"3"
        assert node.broker.statistics().counters.refused == 1


async def test_a_publisher_refused_for_too_long_is_given_up() -> None:
    limits = Limits(refused_retry_s=0.001, refused_stall_s=0.02)
    async with running(limits=limits) as node, client(node) as pub:
        node.refuse = 1_000_000
        pub.send(publish("t", b"1", 1, packet_id=1))
        assert await pub.closed() == []


async def test_retained_messages_come_once_with_retain_and_at_the_lower_qos() -> None:
    async with running() as node, client(node, "pub") as pub:
        for number in range(3):
            pub.send(publish(f"r/{number}", b"old", number, packet_id=1 + number, retained=True))
        await node.until(lambda: len(node.retained) == 3)
        async with client(node, "sub") as sub:
            await sub.quiet()  # nothing without a subscription
            assert await sub.subscribe("r/+", 1) == 1
            seen = {(await sub.publish())[:3] for _ in range(3)}
            assert seen == {(1, "r/0", b"old"), (3, "r/1", b"old"), (3, "r/2", b"old")}
            pub.send(publish("r/0", b"new", retained=True))
            assert (await sub.publish())[:3] == (0, "r/0", b"new")  # live: RETAIN 0
            assert await sub.subscribe("r/0", 0) == 0
            assert (await sub.publish())[:3] == (1, "r/0", b"new")
            pub.send(publish("r/0", b"", retained=True))
            assert (await sub.publish())[:3] == (0, "r/0", b"")
            await sub.subscribe("r/0", 0)
            await sub.quiet()


async def test_more_retained_messages_than_any_window_arrive_before_live_ones() -> None:
    limits = Limits(
        inflight_messages_max=4,
        kept_queue_messages_max=10,
        unsent_bytes_high=2000,
        unsent_bytes_low=500,
    )
    async with running(limits=limits) as node, client(node, "pub") as pub:
        for number in range(300):
            node.retained[f"r/{number}"] = (b"x" * 50, number % 2)
        async with client(node, "sub") as sub:
            sub.send(packets.encode_subscribe(1, [("r/#", 1)]))
            await sub.expect(packets.SUBACK)
            for number in range(300):
                flags, topic, _, packet_id = await sub.publish()
                assert (flags & 1, topic) == (1, f"r/{number}")
                if number == 0:
                    pub.send(publish("r/5", b"live", 1, packet_id=1))
                    await pub.expect(packets.PUBACK)
                if packet_id:
                    sub.send(packets.encode_ack(packets.PUBACK, packet_id))
            assert (await sub.publish())[:3] == (2, "r/5", b"live")


@pytest.mark.parametrize(
    ("filters", "qos", "flags"),
    [
        pytest.param([("a/b", 1), ("a/b", 0)], 1, 0, id="again: the newest counts"),
        pytest.param([("a/#", 0), ("a/+", 1)], 2, 2, id="overlapping: the highest counts"),
    ],
)
async def test_of_several_subscriptions_a_message_comes_once(
    filters: list[tuple[str, int]], qos: int, flags: int
) -> None:
    async with running() as node, client(node) as sub:
        for topic_filter, wanted in filters:
            await sub.subscribe(topic_filter, wanted)
        sub.send(publish("a/b", b"x", qos, packet_id=3))
        assert (await sub.publish())[0] == flags
        await sub.expect(packets.PUBACK if qos == 1 else packets.PUBREC)
        await sub.quiet()


async def test_unsubscribe_ends_delivery_and_unknown_filters_do_no_harm() -> None:
    async with running() as node, client(node) as sub:
        await sub.subscribe("t", 1)
        body = b"\0\x07" + packets.string_field("t") + packets.string_field("never")
        sub.send(bytes((0xA2, len(body))), body)
        await sub.expect(packets.UNSUBACK, b"\0\x07")
        sub.send(publish("t", b"x"))
        await sub.quiet()
        assert node.broker.statistics().subscriptions == 0


async def test_dollar_topics_are_neither_matched_by_wildcards_nor_fatal() -> None:
    async with running() as node, client(node) as sub:
        for topic_filter in ("#", "+/x"):
            await sub.subscribe(topic_filter)
        node.broker.route("$SYS/x", b"hidden", 0)
        sub.send(publish("$SYS/x", b"mine", 1, packet_id=4))
        await sub.expect(packets.PUBACK, b"\0\x04")
        sub.send(publish("a/x", b"seen"))
        assert (await sub.publish())[1:3] == ("a/x", b"seen")
        assert node.broker.statistics().counters.ignored == 1
        assert [entry[0] for entry in node.published] == ["a/x"]


@pytest.mark.parametrize("topic_filter", ["mesh/#", "mesh/v1/a/b", "/" * 64, "x" * 1025])
async def test_filters_that_are_refused(topic_filter: str) -> None:
    async with running() as node, client(node, "mesh-other") as sub:
        sub.send(packets.encode_subscribe(1, [(topic_filter, 1), ("ok", 1)]))
        await sub.expect(packets.SUBACK, b"\0\x01\x80\x01")


async def test_a_will_is_published_when_the_connection_breaks() -> None:
    async with running() as node:
        async with client(node, "w", will=("gone", b"will", 1, True)):
            pass
        await node.until(lambda: node.published)
        assert node.published == [("gone", b"will", 1, True)]


async def test_a_will_is_not_published_after_disconnect() -> None:
    async with running() as node:
        async with socket_to(node) as raw:
            # all at once, as a client that only wants to be seen does
            raw.send(connect_packet("w", will=("gone", b"w", 0, False)), packets.DISCONNECT_PACKET)
            assert [kind for kind, _, _ in await raw.closed()] == [packets.CONNACK]
        async with client(node) as other:
            await other.quiet()
        assert node.published == []


async def test_silence_beyond_keep_alive_ends_the_connection_with_its_will() -> None:
    async with running(limits=Limits(keep_alive_factor=0.05)) as node:
        async with client(node, keep_alive_s=1, will=("gone", b"w", 0, False)) as quiet:
            assert await quiet.closed() == []
        assert node.published[0][0] == "gone"
        assert node.broker.statistics().counters.timed_out == 1


async def test_pings_keep_a_connection_alive() -> None:
    loop = asyncio.get_running_loop()
    async with (
        running(limits=Limits(keep_alive_factor=0.3)) as node,
        client(node, keep_alive_s=1) as pinging,
    ):
        started_s = loop.time()
        while loop.time() - started_s < 0.7:
            await pinging.quiet()


async def test_no_connect_in_time() -> None:
    async with running(limits=Limits(connect_timeout_s=0.02)) as node, socket_to(node) as raw:
        assert await raw.closed() == []
        assert node.broker.statistics().counters.timed_out == 1


async def test_take_over_closes_the_old_connection_and_publishes_its_will() -> None:
    async with running() as node, client(node, "same", will=("gone", b"w", 0, False)) as old:
        async with client(node, "same") as new:
            assert await old.closed() == []
            await new.quiet()
            assert node.broker.statistics().sessions == 1
        assert [entry[0] for entry in node.published] == ["gone"]


async def test_a_persistent_session_resumes_without_a_user_name() -> None:
    async with running() as node, client(node, "pub") as pub:
        async with client(node, "p", clean=False) as sub:
            assert not sub.present
            await sub.subscribe("t", 2)
            for qos in (1, 2):
                pub.send(publish("t", b"in flight %d" % qos, qos, packet_id=1))
                await pub.packet()
            one, two = await sub.publish(), await sub.publish()
            sub.send(packets.encode_ack(packets.PUBREC, two[3]))
            await sub.expect(packets.PUBREL)
        await node.until(lambda: node.broker.statistics().connections == 1)
        pub.send(packets.encode_ack(packets.PUBREL, 1))
        await pub.expect(packets.PUBCOMP)
        pub.send(publish("t", b"offline", 1, packet_id=1), publish("t", b"fresh, not queued"))
        await pub.expect(packets.PUBACK)
        async with client(node, "p", clean=False) as sub:
            assert sub.present
            await sub.expect(packets.PUBREL, two[3].to_bytes(2, "big"))
            assert await sub.publish() == (2 | packets.FLAG_DUP, *one[1:])
            sub.send(packets.encode_ack(packets.PUBCOMP, two[3]))
            flags, _, payload, packet_id = await sub.publish()
            assert (flags, payload) == (2, b"offline")  # neither RETAIN nor DUP
            sub.send(packets.encode_ack(packets.PUBACK, one[3]))
            sub.send(packets.encode_ack(packets.PUBACK, packet_id))
            await sub.quiet()
        async with client(node, "p", clean=False) as sub:
            assert sub.present
            await sub.quiet()
        async with client(node, "p", clean=True) as sub:
            assert not sub.present
            pub.send(publish("t", b"x", 1, packet_id=1))
            await pub.expect(packets.PUBACK)
            await sub.quiet()


async def test_a_released_qos2_message_is_not_published_again() -> None:
    async with running() as node:
        async with client(node, "p", clean=False) as pub:
            pub.send(publish("t", b"x", 2, packet_id=3))
            await pub.expect(packets.PUBREC)
        async with client(node, "p", clean=False) as pub:
            pub.send(publish("t", b"x", 2, packet_id=3, duplicate=True))
            await pub.expect(packets.PUBREC)
            pub.send(packets.encode_ack(packets.PUBREL, 3))
            await pub.expect(packets.PUBCOMP)
            assert len(node.published) == 1
            pub.send(publish("t", b"y", 2, packet_id=3))
            await pub.expect(packets.PUBREC)
            assert len(node.published) == 2


async def test_client_ids_of_no_length() -> None:
    async with running() as node:
        async with client(node, ""), client(node, ""):
            assert node.broker.statistics().sessions == 2
        async with socket_to(node) as raw:
            raw.send(connect_packet("", clean=False))
            await raw.expect(packets.CONNACK, b"\0\x02")
            assert await raw.closed() == []


@pytest.mark.parametrize(("level", "code"), [(3, 1), (4, 0), (5, 1), (0x84, 0), (0x83, 1)])
async def test_protocol_levels(level: int, code: int) -> None:
    async with running() as node, socket_to(node) as raw:
        raw.send(connect_packet("c", level=level))
        await raw.expect(packets.CONNACK, bytes((0, code)))
        if code:
            assert await raw.closed() == []
        else:
            await raw.quiet()


MALFORMED = {
    "not connect": b"\xc0\0",
    "reserved flag": b"\x10\x0d\0\4MQTT\4\1\0\0\0\1a",
    "password without user": b"\x10\x10\0\4MQTT\4\x42\0\0\0\1a\0\1p",
    "will qos without will": b"\x10\x0d\0\4MQTT\4\x0a\0\0\0\1a",
    "cut off": b"\x10\x0c\0\4MQTT\4\2\0\0\0\1",
    "more after the end": b"\x10\x0e\0\4MQTT\4\2\0\0\0\1aa",
    "not UTF-8": b"\x10\x0d\0\4MQTT\4\2\0\0\0\1\xff",
    "another protocol": b"\x10\x0d\0\4MQTX\4\2\0\0\0\1a",
    "http": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_before_the_session(name: str) -> None:
    async with running() as node, socket_to(node) as raw:
        raw.send(MALFORMED[name])
        assert await raw.closed() == []
        assert node.broker.statistics().counters.malformed == 1


@pytest.mark.parametrize(
    "data",
    [
        connect_packet("again"),
        packets.encode_connack(0),
        packets.encode_suback(1, b"\0"),
        b"\xd0\0",
        b"\xc0\1a",
        b"\xe0\1a",
        b"\x82\2\0\1",  # no filter
        b"\x82\6\0\1\0\1a\3",  # QoS 3
        b"\x82\6\0\0\0\1a\0",  # packet id 0
        b"\x82\6\0\1\0\1\xff\0",
        b"\xa2\2\0\1",
        b"\x40\1\1",
        b"\x40\2\0\0",
        publish("a/+", b""),
        b"\x30\xff\xff\x7f",  # 2 MiB
        publish("t", bytes(256 * 1024 + 1)),
    ],
)
async def test_malformed_within_the_session(data: bytes) -> None:
    async with running() as node, client(node, "bad") as bad, client(node, "good") as good:
        await good.subscribe("t")
        bad.send(publish("t", b"before"), data, publish("t", b"after"))
        assert await bad.closed() == []
        assert (await good.publish())[2] == b"before"
        await good.quiet()
        assert node.broker.statistics().counters.malformed == 1


async def test_the_largest_message_passes() -> None:
    async with running() as node, client(node) as both:
        await both.subscribe("t", 1)
        payload = bytes(range(256)) * 1024
        both.send(publish("t", payload, 1, packet_id=1))
        assert (await both.publish())[2] == payload
        await both.expect(packets.PUBACK)
