"""Clients that do not keep up, limits that are reached, and faults: who pays, and who is served all the same."""

import asyncio
import contextlib
import dataclasses
from contextlib import AsyncExitStack
from unittest.mock import Mock

import pytest

from broker.embedded import EmbeddedBroker, Limits, packets
from broker.errors import CannotListen, PortInUse
from tests.embedded.harness import FakeNode, client, running, socket_to

publish = packets.encode_publish


async def test_a_reader_too_slow_for_qos0_loses_the_oldest_and_slows_nobody() -> None:
    limits = Limits(fresh_queue_bytes_max=20_000, unsent_bytes_high=20_000, unsent_bytes_low=1)
    async with running(limits=limits) as node, client(node) as slow, client(node) as pub:
        await slow.subscribe("t")
        slow.writer.transport.pause_reading()
        sent = 0
        while not node.broker.statistics().counters.shed:
            for _ in range(50):
                pub.send(publish("t", sent.to_bytes(4, "big") + bytes(1000)))
                sent += 1
            await pub.quiet()
        slow.writer.transport.resume_reading()
        seen = []
        while not seen or seen[-1] != sent - 1:
            seen.append(int.from_bytes((await slow.publish())[2][:4], "big"))
        assert seen == sorted(set(seen))
        assert len(seen) + node.broker.statistics().counters.shed == sent


async def test_a_burst_within_one_turn_is_bounded_too() -> None:
    limits = Limits(fresh_queue_bytes_max=10_000)
    async with running(limits=limits) as node, client(node) as sub:
        await sub.subscribe("t", 1)
        for number in range(1000):
            node.broker.route("t", number.to_bytes(4, "big") + bytes(100), 0)
        node.broker.route("t", b"kept", 1)
        node.request_flush()
        first, *others = [await sub.publish() for _ in range(40)]
        assert first[2] == b"kept"
        numbers = [int.from_bytes(entry[2][:4], "big") for entry in others]
        shed = node.broker.statistics().counters.shed
        assert numbers[0] == shed > 0
        assert numbers == list(range(shed, shed + len(numbers)))


@pytest.mark.parametrize("kind", ["clean", "persistent"])
async def test_only_what_must_be_stored_first_waits_for_a_flush(kind: str) -> None:
    clean = kind == "clean"
    async with running() as node, client(node, "s", clean=clean) as sub, client(node) as pub:
        await sub.subscribe("t", 1)
        asked = asyncio.Event()
        node.request_flush = asked.set
        pub.send(publish("t", b"0"))
        if clean:
            assert (await sub.publish())[2] == b"0"
            assert not asked.is_set()
            pub.send(publish("t", b"1", 1, packet_id=1))
            assert (await sub.publish())[2] == b"1"
        async with asyncio.timeout(5):
            await asked.wait()
        node.flush()
        if clean:
            await pub.expect(packets.PUBACK)
        else:
            assert (await sub.publish())[2] == b"0"


async def test_many_readers_are_written_in_several_turns_each_message_once_and_in_order() -> None:
    async with running() as node, AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(client(node)) for _ in range(12)]
        for reader in readers:
            await reader.subscribe("#", 1)
        broker = node.broker
        # The second look at the time in a turn finds it used up.
        broker._exchange.slices._slice_s = 1e-9
        for number in range(50):
            broker.route(f"t/{number}", b"%d" % number, number % 2)
            if number % 10 == 9:
                before = broker.statistics().counters.messages_out
                node.flush()
                assert 0 < broker.statistics().counters.messages_out - before < 12 * 10
                await asyncio.sleep(0)
        for reader in readers:
            assert [(await reader.publish())[2] for _ in range(50)] == [
                b"%d" % n for n in range(50)
            ]
            await reader.quiet()


async def test_a_reader_too_slow_for_qos1_is_told_in_the_log_and_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Limits(inflight_messages_max=3, kept_queue_messages_max=5)
    async with running(limits=limits) as node, client(node) as pub:
        async with client(node, "slow", clean=False, will=("gone", b"w", 0, False)) as slow:
            await slow.subscribe("t", 1)
            for numbers in (range(3), range(3, 9)):  # the window, then too much at once
                pub.send(*(publish("t", b"%d" % number, 1, packet_id=1) for number in numbers))
                for _ in numbers:
                    await pub.expect(packets.PUBACK)
            assert [body[-1:] for _, _, body in await slow.closed()] == [b"0", b"1", b"2"]
        await node.until(lambda: node.published[-1][0] == "gone")
        assert node.broker.statistics().counters.slow_consumers == 1
        assert "slow" in caplog.text
        pub.send(publish("t", b"9", 1, packet_id=1))
        await pub.expect(packets.PUBACK)
        # The session went on without the connection: oldest dropped first from the full queue.
        async with client(node, "slow", clean=False) as slow:
            seen = []
            for _ in range(8):
                flags, _, payload, packet_id = await slow.publish()
                seen.append((flags, payload))
                slow.send(packets.encode_ack(packets.PUBACK, packet_id))
            assert seen == [(10, b"0"), (10, b"1"), (10, b"2")] + [
                (2, b"%d" % number) for number in range(5, 10)
            ]
        assert node.broker.statistics().counters.dropped_offline == 2


async def test_a_publisher_that_never_reads_its_answers_is_cut_off() -> None:
    async with running(limits=Limits(unsent_bytes_max=50_000)) as node, client(node) as pub:
        pub.writer.transport.pause_reading()
        ping = packets.PINGREQ_PACKET * 10_000
        with contextlib.suppress(ConnectionError):  # it may be cut off while it sends
            while not node.broker.statistics().counters.slow_consumers:
                pub.send(ping)
                await asyncio.wait_for(pub.writer.drain(), 10)
                await asyncio.sleep(0)
        assert node.broker.statistics().counters.slow_consumers == 1


async def test_connections_over_the_limit_are_closed() -> None:
    async with running(limits=Limits(connections_max=2)) as node:
        async with client(node), client(node) as second:
            async with socket_to(node) as third:
                assert await third.closed() == []
            await second.quiet()
            assert node.broker.statistics().counters.connections_refused == 1
        await node.until(lambda: node.broker.statistics().connections == 0)
        async with client(node) as again:
            await again.quiet()


async def test_sessions_over_the_limit_forget_the_one_longest_away() -> None:
    async with running(limits=Limits(sessions_max=2)) as node:
        for name in ("a", "b", "a", "c"):
            async with client(node, name, clean=False) as one:
                await one.subscribe("t")
            await node.until(lambda: node.broker.statistics().connections == 0)
        assert node.broker.statistics().subscriptions == 2
        for name, present in (("a", True), ("c", True), ("b", False)):
            async with client(node, name, clean=False) as one:
                assert one.present == present


async def test_subscriptions_over_the_limit_are_refused() -> None:
    async with running(limits=Limits(subscriptions_per_session_max=2)) as node, client(node) as sub:
        codes = [await sub.subscribe(topic, 1) for topic in ("a", "b", "c", "a")]
        assert codes == [1, 1, 0x80, 1]


async def test_a_port_in_use_says_so_and_leaves_nothing_open() -> None:
    async with running(websocket=True) as node:
        taken = node.broker.port
        with pytest.raises(PortInUse, match=f"127.0.0.1:{taken}.*another") as caught:
            await EmbeddedBroker(FakeNode(), FakeNode(), "x", port=taken).start()
        assert caught.value.__cause__ is None
        half = EmbeddedBroker(FakeNode(), FakeNode(), "x", port=0, websocket_port=taken)
        with pytest.raises(PortInUse):
            await half.start()
        assert half._servers == {}
        await half.shutdown()


async def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(
        CannotListen, match=r"cannot use 203\.0\.113\.1:0: Cannot assign requested address$"
    ):
        await EmbeddedBroker(FakeNode(), FakeNode(), "x", host="203.0.113.1", port=0).start()


async def test_a_publisher_cut_off_as_its_own_slow_reader_finds_no_stale_answers() -> None:
    limits = Limits(inflight_messages_max=1, kept_queue_messages_max=1)
    async with running(limits=limits) as node:
        async with client(node, "both", clean=False) as both:
            await both.subscribe("t", 1)
            both.send(*(publish("t", b"%d" % number, 1, packet_id=7) for number in range(3)))
            await both.closed()
        async with client(node, "both", clean=False) as both:
            assert (await both.publish())[2] == b"0"
            await both.quiet()


async def test_a_defect_of_the_node_ends_the_connection_that_met_it() -> None:
    async with running() as node, client(node) as victim, client(node) as other:
        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda _, seen: reported.append(seen))
        node.client_publish = None
        victim.send(publish("t", b"x"))
        assert await victim.closed() == []
        await other.quiet()
        assert len(reported) == 1


async def test_shutdown_publishes_wills_and_closes_everything() -> None:
    async with running() as node, client(node, will=("gone", b"w", 0, False)) as one:
        await node.broker.shutdown()
        assert await one.closed() == []
        assert node.published[0][0] == "gone"
        assert node.broker.statistics().sessions == 0
        await node.broker.shutdown()


async def test_who_was_accepted_as_it_shut_down_is_not_left_over() -> None:
    async with running() as node:
        late = Mock(get_extra_info=lambda _: ("127.0.0.1", 1))
        await node.broker.shutdown()
        node.broker._connection().connection_made(late)  # loops tell of it a turn later
        late.abort.assert_called_once()
        assert node.broker.statistics().connections == 0


async def test_statistics_are_a_copy() -> None:
    async with running() as node, client(node) as one:
        before = node.broker.statistics()
        one.send(publish("t", b"x"))
        await one.quiet()
        after = node.broker.statistics()
        assert (before.counters.messages_in, after.counters.messages_in) == (0, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            after.connections = 0


async def test_a_publisher_waits_for_a_reader_that_lags_but_reads() -> None:
    limits = Limits(inflight_messages_max=2, kept_queue_messages_max=20, lag_max_s=10)
    async with running(limits=limits) as node, client(node) as pub, client(node) as sub:
        await sub.subscribe("t", 1)
        window = asyncio.Semaphore(6)  # as a client's own

        async def write() -> None:
            for number in range(1, 301):
                await window.acquire()
                pub.send(publish("t", b"%d" % number, 1, packet_id=number))

        async def hear() -> None:
            for number in range(1, 301):
                await pub.expect(packets.PUBACK, number.to_bytes(2, "big"))
                window.release()

        async def read() -> None:
            for number in range(1, 301):
                _, _, payload, packet_id = await sub.publish()
                assert payload == b"%d" % number
                for _ in range(10):  # turns of the loop: slower than the publisher
                    await asyncio.sleep(0)
                sub.send(packets.encode_ack(packets.PUBACK, packet_id))

        await asyncio.gather(write(), hear(), read())
        assert node.broker.statistics().counters.slow_consumers == 0


async def test_a_stuck_reader_holds_a_publisher_once_and_not_for_long() -> None:
    limits = Limits(inflight_messages_max=2, kept_queue_messages_max=20, lag_max_s=0.05)
    async with running(limits=limits) as node, client(node) as pub, client(node) as stuck:
        await stuck.subscribe("t", 1)
        for number in range(1, 14):
            pub.send(publish("t", b"x", 1, packet_id=number))
        await node.until(lambda: len(node.published) == 13)
        seen = [await pub.expect(packets.PUBACK) for _ in range(13)]
        assert [int.from_bytes(body, "big") for body in seen] == list(range(1, 14))
        await stuck.closed()
        assert node.broker.statistics().counters.slow_consumers == 1


async def test_a_client_that_publishes_to_itself_does_not_stop_itself() -> None:
    limits = Limits(inflight_messages_max=2, kept_queue_messages_max=20)
    async with running(limits=limits) as node, client(node) as both:
        await both.subscribe("t", 1)
        for number in range(1, 16):
            both.send(publish("t", b"x", 1, packet_id=number))
        acknowledged = delivered = 0
        while acknowledged < 15 or delivered < 15:
            kind, flags, body = await both.packet()
            if kind == packets.PUBACK:
                acknowledged += 1
            else:
                delivered += 1
                packet_id = packets.parse_publish(flags, body)[2]
                both.send(packets.encode_ack(packets.PUBACK, packet_id))
        assert node.broker.statistics().counters.slow_consumers == 0


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_bridge_gets_nothing_back_and_retain_as_it_was(qos):
    async with (
        running() as node,
        client(node, "bridge", level=0x84) as bridge,
        client(node, "other") as other,
    ):
        for each in (bridge, other):
            assert await each.subscribe("t/#", qos) == qos
        for number in range(3):
            bridge.send(packets.encode_publish("t/x", b"same", qos, packet_id=number + 1))
        for _ in range(3):
            assert (await other.publish())[:3] == (qos << 1, "t/x", b"same")
            if qos:
                await bridge.expect(packets.PUBACK)
        other.send(packets.encode_publish("t/x", b"same", qos, packet_id=9, retained=True))
        assert (await bridge.publish())[:3] == (qos << 1 | packets.FLAG_RETAIN, "t/x", b"same")
        node.broker.route("t/y", b"", qos, retained=True)
        node.request_flush()
        assert (await bridge.publish())[:3] == (qos << 1 | packets.FLAG_RETAIN, "t/y", b"")
        await bridge.quiet()
