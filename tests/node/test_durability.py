"""When a publish is acknowledged: after the disk has synced, or after the kernel has it."""

import asyncio
import io
import threading
from itertools import pairwise

import msgspec
import pytest
from rich.console import Console

from agent.commands.status import render
from agent.commands.status_form import Report
from agent.report import node_report
from broker.commits import Durability
from broker.errors import StoreFailed
from broker.link import Neighbour
from broker.node import Node
from broker.store import Store
from tests.node.fleet import Listener, established
from tests.power import Disk
from tests.waiting import until

CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x"
CONNACK = b"\x20\x02\x00\x00"


def publish_packet(packet_id):
    body = b"\x00\x01t" + packet_id.to_bytes(2, "big") + b"payload"
    return bytes([0x32, len(body)]) + body


class SlowDisk(Store):
    """A store whose syncs take as long as a test likes, and may fail."""

    def __init__(self, directory):
        super().__init__(directory)
        self.free = threading.Event()
        self.free.set()
        self.failing = False
        self.began = 0

    def sync(self):
        self.began += 1
        assert self.free.wait(20)
        if self.failing:
            raise StoreFailed("the disk cannot be synced: no such luck")
        super().sync()


async def started(name, store, *, neighbours=(), **options):
    to = [Neighbour(node.device, "127.0.0.1", node.port) for node in neighbours]
    node = Node(name, store, port=0, neighbours=to, seed=1, **options)
    await node.start()
    return node


def test_an_acknowledgement_waits_for_the_disk_and_nothing_else_does(tmp_path):
    async def story():
        disk = SlowDisk(tmp_path / "a")
        b = await started("b", Store(tmp_path / "b"))
        a = await started("a", disk, neighbours=[b])
        await until(lambda: established(a) == {"b"} and established(b) == {"a"}, "a link")
        here, there = Listener(a), Listener(b)
        disk.free.clear()
        publish = asyncio.ensure_future(a.publish("t", b"x", qos=1))
        reader, writer = await asyncio.open_connection("127.0.0.1", a.port)
        writer.write(CONNECT + publish_packet(7))
        assert await reader.readexactly(4) == CONNACK
        await until(lambda: there.payloads("t") == [b"x", b"payload"], "delivery elsewhere")
        assert here.payloads("t") == [b"x", b"payload"]
        puback = asyncio.ensure_future(reader.readexactly(4))
        await asyncio.sleep(0)
        assert not publish.done()
        assert not puback.done()
        disk.free.set()
        await publish
        assert await asyncio.wait_for(puback, 20) == b"\x40\x02\x00\x07"
        writer.close()
        await a.stop()
        await b.stop()

    asyncio.run(story())


def test_one_sync_is_for_all_that_came_while_another_ran(tmp_path):
    async def story():
        disk = SlowDisk(tmp_path)
        a = await started("a", disk)
        disk.free.clear()
        publishes = [asyncio.ensure_future(a.publish("t", b"first", qos=1))]
        await until(lambda: disk.began == 1, "the first sync")
        for number in range(50):
            publishes.append(asyncio.ensure_future(a.publish("t", b"%d" % number, qos=1)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        commits = a.statistics().commits
        disk.free.set()
        await asyncio.gather(*publishes)
        assert commits > 20
        assert disk.began == a.statistics().syncs == 2
        await a.stop()

    asyncio.run(story())


def test_with_process_durability_nothing_waits_for_the_disk(tmp_path):
    async def story():
        disk = SlowDisk(tmp_path)
        a = await started("a", disk, durability=Durability.PROCESS)
        disk.free.clear()
        await a.publish("t", b"x", qos=1)
        assert disk.began == 0
        await a.stop()

    asyncio.run(story())


def test_what_needs_no_disk_is_acknowledged_at_once(tmp_path):
    async def story():
        disk = SlowDisk(tmp_path)
        a = await started("a", disk)
        disk.free.clear()
        await a.publish("t", b"fresh", qos=0)
        await a.publish("local/t", b"stays", qos=1)
        assert disk.began == 0
        disk.free.set()
        await a.stop()

    asyncio.run(story())


def test_a_failed_sync_acknowledges_nothing_and_the_next_good_one_does(tmp_path):
    async def story():
        disk = SlowDisk(tmp_path)
        a = await started("a", disk)
        disk.failing = True
        with pytest.raises(StoreFailed, match="no such luck"):
            await a.publish("t", b"x", qos=1)
        reader, writer = await asyncio.open_connection("127.0.0.1", a.port)
        writer.write(CONNECT)
        assert await reader.readexactly(4) == CONNACK
        writer.write(publish_packet(7))
        assert await asyncio.wait_for(reader.read(), 20) == b""  # closed, no PUBACK
        statistics = a.statistics()
        assert statistics.syncs_failed >= 2
        assert "no such luck" in statistics.last_problem
        disk.failing = False
        await a.publish("t", b"y", qos=1)
        writer.close()
        await a.stop()

    asyncio.run(story())


def test_a_sync_for_which_there_is_no_thread_is_told_and_the_next_one_is_good(
    tmp_path, monkeypatch
):
    async def story():
        node = await started("a", Store(tmp_path / "a"))

        async def no_thread(step):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr("asyncio.to_thread", no_thread)
            with pytest.raises(StoreFailed, match="new thread"):
                await node.publish("t", b"x", qos=1)
        await node.publish("t", b"y", qos=1)
        await node.stop()

    asyncio.run(story())


def test_stopping_makes_everything_durable_and_tells_who_waits(tmp_path):
    async def story():
        disk = SlowDisk(tmp_path)
        a = await started("a", disk)
        disk.free.clear()
        publish = asyncio.ensure_future(a.publish("t", b"x", qos=1))
        await until(lambda: disk.began == 1, "the sync")
        disk.free.set()
        await a.stop()
        await publish

    asyncio.run(story())


@pytest.mark.parametrize("durability", Durability)
def test_what_was_acknowledged_comes_back_after_a_power_cut_as_promised(
    tmp_path, monkeypatch, durability
):
    disk = Disk(monkeypatch, tmp_path / "a")

    async def story():
        a = await started("a", Store(tmp_path / "a"), durability=durability)
        disk.snapshot()  # a boot is synced
        acknowledged = []

        async def publisher(lane):
            for number in range(25):
                payload = b"%d %d" % (lane, number)
                await a.publish(f"t{lane}", payload, qos=1)
                acknowledged.append(payload)

        publishers = [asyncio.ensure_future(publisher(lane)) for lane in range(4)]
        await until(lambda: len(acknowledged) > 40, "acknowledgements")
        with disk.cut_power(tmp_path / "after"):
            promised = list(acknowledged)
        again = await started("a", Store(tmp_path / "after"), durability=durability)
        b = await started("b", Store(tmp_path / "b"), neighbours=[again])
        heard = Listener(b)
        await until(lambda: established(b) == {"a"} and not b.joining, "a link")
        await again.publish("t", b"last", qos=1)
        await until(lambda: heard.payloads("t"), "the last")
        came = [m.payload for m in heard.heard if m.topic != "t"]
        if durability is Durability.POWER:
            assert set(promised) <= set(came)
            assert all(came.index(one) < came.index(other) for one, other in pairs(promised))
        else:
            assert came == []  # nothing had been synced yet; a kill alone would have taken nothing
        await asyncio.gather(*publishers)
        for node in (a, b, again):
            await node.stop()

    asyncio.run(story())


def pairs(payloads):
    """Payloads of one lane and the next of the same."""
    lanes = {}
    for payload in payloads:
        lanes.setdefault(payload.split()[0], []).append(payload)
    return [pair for lane in lanes.values() for pair in pairwise(lane)]


def test_past_the_retention_bound_the_gap_is_told_and_retained_state_agrees(tmp_path, monkeypatch):
    monkeypatch.setattr("broker.mesh.log.LOG_BUNDLES_MAX", 20)
    monkeypatch.setattr("broker.mesh.repair.GAP_WAIT_MS", 300)

    async def story():
        a = await started("a", Store(tmp_path / "a"))
        b = await started("b", Store(tmp_path / "b"), neighbours=[a])
        await until(lambda: established(b) == {"a"} and not b.joining, "a link")
        await a.publish("gone", b"x", qos=1, retained=True)
        await until(lambda: list(b.retained_matching("#")), "the retained one")
        await b.stop()
        for number in range(60):
            await a.publish("t", b"%d" % number, qos=1)
            await a.publish("mode", b"%d" % number, qos=1, retained=True)
        await a.publish("gone", b"", qos=1, retained=True)
        for number in range(60, 100):
            await a.publish("t", b"%d" % number, qos=1)
        b = await started("b", Store(tmp_path / "b"), neighbours=[a])
        heard = Listener(b)
        await until(lambda: b"99" in heard.payloads("t", rebuild=False), "the newest")
        await until(lambda: list(b.retained_matching("#")) == [("mode", b"59", 1)], "the values")
        news = [int(payload) for payload in heard.payloads("t", rebuild=False)]
        assert news == list(range(news[0], 100))
        assert news[0] > 0
        report = node_report(b.statistics(), 1.0)
        assert report["counters"]["lost_for_good"] >= 1
        assert report["last_loss"].startswith("what a published on lane 5 after")
        shown = io.StringIO()
        render(msgspec.convert(report, Report), Console(file=shown, width=200))
        times = report["counters"]["lost_for_good"]
        text = f"lost for good {times} times, the last: {report['last_loss']}"
        assert text in " ".join(shown.getvalue().split())
        await a.stop()
        await b.stop()

    asyncio.run(story())
