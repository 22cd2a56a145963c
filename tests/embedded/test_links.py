"""A neighbour's session: attached as a pipe, its frames beside every queue, nobody else under `mesh/`."""

import asyncio

from broker.embedded import Limits, packets
from tests.embedded.harness import FakeNode, RawClient, client, running

publish = packets.encode_publish


async def link(node: FakeNode, raw: RawClient) -> None:
    raw.send(packets.encode_subscribe(1, [("mesh/v1/peer/+", 0)]))
    await raw.expect(packets.SUBACK, b"\0\1\0")
    await node.until(lambda: node.links)


async def test_frames_go_both_ways_and_past_every_subscriber() -> None:
    async with running() as node, client(node, "curious") as curious:
        await curious.subscribe("#", 1)
        await curious.subscribe("+/v1/#", 1)
        async with client(node, "mesh-peer") as raw:
            await link(node, raw)
            [(peer, pipe)] = node.links
            assert peer == "peer"
            big = bytes(65_536)
            raw.send(publish("mesh/v1/self/peer", b"one"), publish("mesh/v1/self/peer", big))
            await node.until(lambda: len(node.frames) == 2)
            assert list(node.frames) == [("peer", b"one"), ("peer", big)]
            pipe.send([b"a", b"", big])
            for expected in (b"a", b"", big):
                assert await raw.publish() == (0, "mesh/v1/peer/self", expected, 0)
            raw.send(publish("t", b"ordinary", 1, packet_id=1))
            await raw.expect(packets.PUBACK)
            assert (await curious.publish())[1] == "t"
            await curious.quiet()
        await node.until(lambda: node.detached)
        assert node.detached == [("peer", pipe)]
        assert pipe.unsent_bytes == 0
        pipe.send([b"into the void"])
        pipe.close()


async def test_the_answer_comes_before_the_first_frame() -> None:
    async with running() as node, client(node, "mesh-peer") as raw:
        attached = node.link_attached

        def greet(peer, pipe) -> None:
            attached(peer, pipe)
            pipe.send([b"hello"])

        node.link_attached = greet
        await link(node, raw)
        assert (await raw.publish())[2] == b"hello"


async def test_nobody_else_speaks_under_mesh() -> None:
    async with running() as node, client(node, "stranger") as raw:
        assert await raw.subscribe("mesh/v1/stranger/+") == 0x80
        raw.send(publish("mesh/v1/self/peer", b"forged", 1, packet_id=1))
        await raw.expect(packets.PUBACK)
        assert not node.frames
        assert not node.published
        assert not node.links
        assert node.broker.statistics().counters.ignored == 1
    async with running() as node, client(node, "mesh-peer") as raw:
        for topic_filter in ("mesh/v1/other/+", "mesh/#", "mesh/v1/peer", "mesh/v1/peer/a/b"):
            assert await raw.subscribe(topic_filter) == 0x80
        await link(node, raw)
        raw.send(publish("mesh/v1/self/other", b"as another"))
        await raw.quiet()
        assert not node.frames
        assert node.broker.statistics().counters.ignored == 1


async def test_a_link_that_comes_again_takes_over() -> None:
    async with running() as node, client(node, "mesh-peer") as old:
        await link(node, old)
        [(_, first)] = node.links
        async with client(node, "mesh-peer") as new:
            assert node.detached == [("peer", first)]
            await link(node, new)
            [(_, second)] = node.links
            second.send([b"x"])
            assert (await new.publish())[2] == b"x"
            assert await old.closed() == []
            assert len(node.detached) == 1


async def test_a_pipe_tells_what_it_has_not_sent_and_asks_when_it_drains() -> None:
    limits = Limits(link_unsent_bytes_high=100_000, link_unsent_bytes_low=10_000)
    async with running(limits=limits) as node, client(node, "mesh-peer") as raw:
        await link(node, raw)
        [(_, pipe)] = node.links
        raw.writer.transport.pause_reading()
        count = 0
        while pipe.unsent_bytes <= limits.link_unsent_bytes_high:
            pipe.send([bytes(50_000)])
            count += 1
            await asyncio.sleep(0)
        asked = asyncio.Event()
        node.request_flush = asked.set
        raw.writer.transport.resume_reading()
        for _ in range(count):
            assert len((await raw.publish())[2]) == 50_000
        await asyncio.wait_for(asked.wait(), 10)
        assert pipe.unsent_bytes <= limits.link_unsent_bytes_low


async def test_a_link_that_never_reads_is_cut_off() -> None:
    async with (
        running(limits=Limits(unsent_bytes_max=300_000)) as node,
        client(node, "mesh-peer") as raw,
    ):
        await link(node, raw)
        [(_, pipe)] = node.links
        raw.writer.transport.pause_reading()
        while not node.detached:
            pipe.send([bytes(60_000)])
            await asyncio.sleep(0)
        assert node.broker.statistics().counters.slow_consumers == 1


async def test_close_and_unsubscribe_end_a_link() -> None:
    async with running() as node:
        async with client(node, "mesh-peer") as raw:
            await link(node, raw)
            node.links[0][1].close()
            assert await raw.closed() == []
        async with client(node, "mesh-peer") as raw:
            await link(node, raw)
            body = b"\0\7" + packets.string_field("mesh/v1/peer/+")
            raw.send(bytes((0xA2, len(body))), body)
            assert await raw.closed() == []
        assert len(node.detached) == 2
        assert node.links == []
