"""What a device publishes itself reaches its MQTT sessions once, in order, whichever way each message takes."""

import asyncio

import pytest

from broker.embedded import packets
from broker.local_delivery import LocalDelivery
from broker.mesh.bundle import Message
from broker.mesh.events import Deliver
from tests.node.clients import session
from tests.node.fleet import Listener, established, start
from tests.waiting import until


class Sessions:
    subscribed = True

    def __init__(self):
        self.routed = []

    def route(self, topic, payload, qos, *, retained=False):
        self.routed.append((topic, payload))


def message(clock, qos, *, retained=False):
    return Message(clock, qos << 1 | retained, 0, 0, "t", b"%d" % clock)


def test_what_must_wait_makes_what_follows_wait():
    sessions = Sessions()
    local = LocalDelivery("a", sessions)
    kinds = [
        (1, False, False),
        (0, False, False),
        (1, True, False),
        (1, False, False),
        (0, False, True),
    ]
    messages = []
    for clock, (qos, retained, unicast) in enumerate(kinds, 1):
        local.published("t", b"%d" % clock, qos, clock, retained=retained, unicast=unicast)
        if not unicast:
            messages.append(message(clock, qos, retained=retained))
    assert [payload for _, payload in sessions.routed] == [b"1", b"2"]
    local.delivered(Deliver("a", 1, messages, rebuild=False))
    assert [payload for _, payload in sessions.routed] == [b"1", b"2", b"3", b"4"]
    local.turn_ended()
    local.published("t", b"9", 0, 9, retained=False, unicast=False)
    assert sessions.routed[-1] == ("t", b"9")


def test_only_what_nobody_else_could_get_goes_past_the_mesh():
    sessions = Sessions()
    local = LocalDelivery("a", sessions)
    assert local.past_the_mesh("t", b"1")
    assert not local.past_the_mesh("flock/v1/home/count/a/cars", b"2")
    local.published("t", b"3", 1, 3, retained=True, unicast=False)
    assert not local.past_the_mesh("t", b"4")  # it would overtake
    local.turn_ended()
    local.links = 1
    assert not local.past_the_mesh("t", b"5")
    local.links, local.listeners = 0, 1
    assert not local.past_the_mesh("t", b"6")
    assert sessions.routed == [("t", b"1")]


def test_a_neighbour_that_comes_gets_what_is_published_from_then_on(tmp_path):
    async def told():
        one = await start("a", tmp_path)
        async with session(one, clean=True, present=False) as raw:
            raw.send(packets.encode_publish("t", b"alone"))
            assert await raw.rest() == []
            assert one.statistics().mesh.counters.get("published", 0) == 0
            assert not one.has_neighbours()
            other = await start("b", tmp_path, [one])
            heard = Listener(other)
            await until(lambda: "a" in established(other) and not other.joining, "a link")
            raw.send(packets.encode_publish("t", b"together"))
            await until(lambda: heard.payloads("t") == [b"together"], "the message")
            assert one.has_neighbours()  # so clients leave time to it
            await other.stop()
            await until(lambda: not one._local.links, "the link to go")
            raw.send(packets.encode_subscribe(1, [("t", 0)]), packets.encode_publish("t", b"alone"))
            assert (await raw.rest())[-1][2].endswith(b"alone")
        await one.stop()

    asyncio.run(told())


def test_another_device_may_use_the_same_clock():
    sessions = Sessions()
    local = LocalDelivery("a", sessions)
    local.published("t", b"own", 1, 7, retained=False, unicast=False)
    local.delivered(Deliver("b", 1, [message(7, 1)], rebuild=False))
    local.delivered(Deliver("a", 1, [message(7, 1)], rebuild=False))
    local.delivered(Deliver("b", 1, [message(8, 1)], rebuild=True))
    assert [payload for _, payload in sessions.routed] == [b"own", b"7"]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_arrives_once_and_in_order_among_retained_ones(tmp_path, qos):
    async def told():
        node = await start("a", tmp_path)
        async with session(node, clean=True, present=False) as sub:
            await sub.subscribe("t", qos)
            for number in range(300):
                node.publish_nowait("t", b"%d" % number, qos=qos, retained=number % 7 == 3)
                if number % 5 == 0:
                    await asyncio.sleep(0)
            seen = [int((await sub.publish())[2]) for _ in range(300)]
            assert seen == list(range(300))
            assert await sub.rest() == []
        await node.stop()

    asyncio.run(told())
