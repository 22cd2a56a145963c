"""A bridge's inward half without a broker: what is taken, when it is acknowledged."""

import asyncio
from functools import partial

import pytest

from broker import bridge_inward
from broker.bridge_inward import INCOMING_MAX, Filter, Inward
from broker.embedded import packets
from broker.errors import MalformedPacket, Refused, StoreFailed
from broker.permissions import client_may
from tests.waiting import until


class Mesh:
    """A node that refuses and stores as a test says."""

    def __init__(self):
        self.published = []
        self.retained = {}
        self.refuse = False
        self.disk = asyncio.Event()
        self.disk.set()
        self.broken = False

    def publish_nowait(self, topic, payload, *, qos=0, retained=False, via=0):
        if self.refuse:
            raise Refused
        self.published.append((topic, payload, qos, retained, via))
        return 1

    async def committed(self):
        await self.disk.wait()
        if self.broken:
            raise StoreFailed("the disk is full")

    def retained_value(self, topic):
        return self.retained.get(topic)


class Out:
    def __init__(self):
        self.owed = []

    def goes_out(self, topic):
        return topic.startswith("both/")

    def owe(self, topic, payload, *, retained):
        self.owed.append((topic, payload, retained))


class Wire:
    """The foreign broker's end."""

    def __init__(self):
        self.written = b""
        self.closed = ""

    def write(self, data):
        self.written += data

    def close(self, reason):
        self.closed = reason

    @property
    def acknowledged(self):
        parser = packets.PacketParser()
        parser.feed(self.written)
        return [
            packets.parse_packet_id(body)
            for kind, _, body in parser.packets()
            if kind == packets.PUBACK
        ]


def parts(*, plain=False, subscribed=True):
    mesh, out, wire = Mesh(), Out(), Wire()
    may_write = partial(client_may, device="a", client=None, secured=True)
    inward = Inward((Filter("#", 1),), mesh, out, 7, may_write)
    inward.open(wire, plain=plain, subscribed=subscribed)
    return mesh, out, wire, inward


def come(inward, topic, payload, number=0, *, retained=False):
    packet = packets.encode_publish(
        topic, payload, int(number > 0), packet_id=number, retained=retained
    )
    parser = packets.PacketParser(1 << 20)
    parser.feed(packet)
    ((_, flags, body),) = parser.packets()
    inward.published(flags, body)


def test_a_message_is_acknowledged_once_it_is_stored():
    async def story():
        mesh, _, wire, inward = parts()
        mesh.disk.clear()
        come(inward, "t", b"1", 1)
        come(inward, "t", b"2", 2)
        come(inward, "t", b"fresh")
        await asyncio.sleep(0)
        assert mesh.published == [
            ("t", b"1", 1, False, 7),
            ("t", b"2", 1, False, 7),
            ("t", b"fresh", 0, False, 7),
        ]
        assert wire.acknowledged == []
        mesh.disk.set()
        await until(lambda: wire.acknowledged == [1, 2], "the acknowledgements")

    asyncio.run(story())


def test_what_the_mesh_refuses_waits_unacknowledged_and_in_order(monkeypatch):
    monkeypatch.setattr(bridge_inward, "RETRY_S", 0.001)

    async def story():
        mesh, _, wire, inward = parts()
        mesh.refuse = True
        for number in range(1, 6):
            come(inward, "t", b"%d" % number, number)
        await until(lambda: inward.counters["in_refused"] > 10, "some attempts")
        assert wire.acknowledged == []
        mesh.refuse = False
        await until(lambda: wire.acknowledged == [1, 2, 3, 4, 5], "the acknowledgements")
        assert [payload for _, payload, *_ in mesh.published] == [b"1", b"2", b"3", b"4", b"5"]

    asyncio.run(story())


def test_a_fresh_message_that_is_refused_is_dropped():
    async def story():
        mesh, _, _, inward = parts()
        mesh.refuse = True
        come(inward, "t", b"x")
        mesh.refuse = False
        come(inward, "t", b"y")
        assert [payload for _, payload, *_ in mesh.published] == [b"y"]

    asyncio.run(story())


def test_without_a_disk_the_connection_closes_and_nothing_is_acknowledged():
    async def story():
        mesh, _, wire, inward = parts()
        mesh.broken = True
        come(inward, "t", b"x", 1)
        await until(lambda: wire.closed, "the end")
        assert wire.acknowledged == []
        assert "disk is full" in wire.closed

    asyncio.run(story())


def test_one_who_sends_without_end_while_the_mesh_refuses_is_cut_off():
    async def story():
        mesh, _, _, inward = parts()
        mesh.refuse = True
        for number in range(1, INCOMING_MAX + 1):
            come(inward, "t", b"x", number)
        with pytest.raises(MalformedPacket, match="PUBACK"):
            come(inward, "t", b"x", 1)
        inward.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("$SYS/x", b""),
        ("local/x", b""),
        ("mesh/v1/a/b", b""),
        ("t", bytes(300_000)),
        ("x/" * 80 + "x", b""),
    ],
    ids=["broker's own", "device's own", "links' own", "too large", "too deep"],
)
def test_what_the_mesh_cannot_carry_is_acknowledged_and_counted(topic, payload):
    async def story():
        mesh, _, wire, inward = parts()
        come(inward, topic, payload, 1)
        await until(lambda: wire.acknowledged == [1], "the acknowledgement")
        assert mesh.published == []
        assert inward.counters["in_ignored"] == 1

    asyncio.run(story())


@pytest.mark.parametrize("topic", ["count/b/cars", "model/occupancy", "call/a/door/c/1"])
def test_nobody_behind_a_bridge_speaks_for_another_device_or_an_operator(topic):
    async def story():
        mesh, _, wire, inward = parts()
        come(inward, f"flock/v1/town/{topic}", b"1", 1)
        come(inward, "flock/v1/town/count/a/machines", b"1", 2)
        await until(lambda: wire.acknowledged == [1, 2], "the acknowledgements")
        assert [topic for topic, *_ in mesh.published] == ["flock/v1/town/count/a/machines"]
        assert inward.counters["in_forbidden"] == 1

    asyncio.run(story())


def test_retained_values_that_a_subscription_brings_are_news_only_where_the_mesh_has_none():
    async def story():
        mesh, out, _, inward = parts(subscribed=False)
        mesh.retained = {"in/same": b"1", "in/other": b"1", "both/other": b"1", "both/gone": b""}
        for topic in ("in/same", "in/other", "in/new", "both/other", "both/gone"):
            come(inward, topic, b"1" if topic == "in/same" else b"2", 1, retained=True)
        assert [topic for topic, *_ in mesh.published] == ["in/other", "in/new"]
        assert out.owed == [("both/other", b"1", True), ("both/gone", b"", True)]

    asyncio.run(story())


def test_later_equal_retained_values_are_news():
    async def story():
        mesh, out, _, inward = parts()
        mesh.retained = {"both/x": b"1"}
        come(inward, "both/x", b"1", 1, retained=True)
        assert mesh.published == [("both/x", b"1", 1, True, 7)]
        assert out.owed == []

    asyncio.run(story())


def test_where_retain_is_not_passed_on_a_topic_with_a_value_keeps_having_one():
    async def story():
        mesh, _, _, inward = parts(plain=True)
        mesh.retained = {"in/state": b"1", "in/gone": b""}
        come(inward, "in/state", b"2", 1)
        come(inward, "in/state", b"", 2)
        come(inward, "in/gone", b"event", 3)
        assert [retained for *_, retained, _ in mesh.published] == [True, True, False]
        inward.close()

    asyncio.run(story())
