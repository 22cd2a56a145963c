"""When a publish is acknowledged: after the disk has synced, or after the kernel has it."""

import asyncio
import threading

import pytest

from broker.commits import Durability
from broker.errors import StoreFailed
from broker.link import Neighbour
from broker.node import Node
from broker.store import Store
from tests.node.fleet import Listener, established, until

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
        publishes = []
        for number in range(50):
            publishes.append(asyncio.ensure_future(a.publish("t", b"%d" % number, qos=1)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await until(lambda: disk.began == 1, "the first sync")
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
