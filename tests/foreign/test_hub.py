"""Devices that meet at a hub: real brokers, and a nasty one."""

import asyncio
import contextlib
from random import Random

import pytest

from broker.hub import HubAt
from broker.link import Neighbour
from broker.mqtt_client import Address
from tests.foreign.brokers import KINDS, NastyHub, foreign, needs_nats
from tests.node.fleet import Listener, established, start
from tests.waiting import until

KEY = b"k" * 32
OBSTACLE = "flock/v1/home/obstacle/a/box"


def at(hub, key=KEY, peers=()):
    return [HubAt(Address("127.0.0.1", hub.port), key, peers)]


@contextlib.asynccontextmanager
async def pair(directory, hub, **options):
    nodes = [await start(name, directory, hubs=at(hub, **options)) for name in "ab"]
    try:
        await until(lambda: linked(*nodes), "a link through the hub")
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


@contextlib.asynccontextmanager
async def nasty_hub(*arguments):
    hub = NastyHub(*arguments)
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


def linked(one, other):
    return other.device in established(one) and one.device in established(other)


def retained(node, topic):
    return [payload for _, payload, _ in node.retained_matching(topic)]


def counters(node):
    return node.statistics().hubs[0].counters


async def publish(node, numbers):
    for number in numbers:
        await node.publish("t", b"%d" % number, qos=1)


def payloads(count, start=0):
    return [b"%d" % number for number in range(start, start + count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", [True, False], ids=["named", "announced"])
def test_devices_meet_and_agree_in_both_directions(tmp_path, kind, named):
    async def story():
        peers = ("a", "b") if named else ()
        async with foreign(kind, tmp_path) as hub, pair(tmp_path, hub, peers=peers) as (a, b):
            at_a, at_b = Listener(a), Listener(b)
            await a.publish(OBSTACLE, b'{"ttl_ms":60000}')
            await b.publish("home/mode", b"night", qos=1, retained=True)
            await publish(a, range(200))
            await until(lambda: len(at_b.payloads("t")) >= 200, "all")
            assert at_b.payloads("t") == payloads(200)
            await until(lambda: at_b.payloads(OBSTACLE), "the obstacle")
            await until(lambda: retained(a, "home/mode") == [b"night"], "the retained value")
            await a.publish("home/mode", b"", qos=1, retained=True)
            await until(lambda: not retained(b, "home/mode"), "its deletion")
            big = bytes(range(256)) * 1000
            await b.publish("big", big, qos=1)
            await until(lambda: at_a.payloads("big") == [big], "a message larger than a frame")
            (told,) = a.statistics().hubs
            assert told.connected and told.peers == {"b": True} and told.integrity == "tag"

    asyncio.run(story())


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_that_is_killed_and_comes_back_costs_nothing_that_was_kept(tmp_path, kind):
    async def story():
        async with foreign(kind, tmp_path) as hub, pair(tmp_path, hub) as (a, b):
            heard = Listener(b)
            await publish(a, range(50))
            await hub.kill()
            await until(lambda: not established(a) and not established(b), "the links' end")
            await publish(a, range(50, 100))
            await hub.start()
            await until(lambda: len(heard.payloads("t")) >= 100, "the rest")
            assert heard.payloads("t") == payloads(100)

    asyncio.run(story())


def test_a_direct_link_is_preferred_and_the_hub_takes_over_when_it_goes(tmp_path):
    async def story():
        async with nasty_hub() as hub, pair(tmp_path, hub) as (a, b):
            heard = Listener(b)
            assert not a.links._has_direct("b")
            a.dial(Neighbour("b", "127.0.0.1", b.port))
            await until(lambda: a.links._has_direct("b") and linked(a, b), "the direct link")
            await until(lambda: a.statistics().hubs[0].peers == {"b": False}, "the session's end")
            passed = len(hub.seen)
            await publish(a, range(20))
            await until(lambda: len(heard.payloads("t")) == 20, "all")
            assert not [topic for topic, _ in hub.seen[passed:] if topic == "mesh/v1/b/a"]
            a.links.undial("b")
            await until(lambda: linked(a, b) and not a.links._has_direct("b"), "the hub again")
            await publish(a, range(20, 40))
            await until(lambda: len(heard.payloads("t")) >= 40, "the rest")
            assert heard.payloads("t") == payloads(40)

    asyncio.run(story())


def test_devices_at_two_hubs_choose_the_same_one(tmp_path):
    async def story():
        async with nasty_hub() as one, nasty_hub() as other:
            nodes = [await start(name, tmp_path, hubs=at(one) + at(other)) for name in "ab"]
            a, b = nodes
            await until(lambda: linked(a, b), "a link")

            def chosen(node):
                return [any(hub.peers.values()) for hub in node.statistics().hubs]

            await until(lambda: chosen(a) == chosen(b) and sum(chosen(a)) == 1, "one session")
            (one if chosen(a)[0] else other).cut()
            heard = Listener(b)
            await publish(a, range(10))
            await until(lambda: heard.payloads("t") == payloads(10), "the messages")
            for node in nodes:
                await node.stop()

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(3))
def test_nothing_kept_is_lost_doubled_or_disordered_by_a_nasty_hub(tmp_path, seed):
    chance = Random(seed)
    old = []

    def mangle(topic, payload):
        old.append((topic, payload))
        roll = chance.random()
        passed = [] if roll < 0.1 else [(topic, payload)]
        if 0.1 < roll < 0.2:
            passed.append((topic, payload))
        if 0.2 < roll < 0.3:
            passed += chance.choices(old, k=2)
        if 0.3 < roll < 0.35:
            passed.append((topic, payload[: len(payload) // 2]))
        if 0.35 < roll < 0.4:
            passed.append((topic, payload[:-20] + bytes([payload[-20] ^ 1]) + payload[-19:]))
        if 0.4 < roll < 0.45:
            passed.append((topic, chance.randbytes(60)))
        chance.shuffle(passed)
        return passed

    async def story():
        async with nasty_hub(mangle) as hub, pair(tmp_path, hub) as (a, b):
            at_a, at_b = Listener(a), Listener(b)
            for number in range(100):
                await publish(a, [number])
                await publish(b, [number])
                if number == 50:
                    hub.cut()
            await until(lambda: len(at_b.payloads("t")) >= 200, "all at b")
            await until(lambda: len(at_a.payloads("t")) >= 200, "all at a")
            for heard in (at_a, at_b):
                for origin in "ab":
                    got = [m.payload for m in heard.heard if m.topic == "t" and m.origin == origin]
                    assert got == payloads(100)
            assert counters(a)["refused"] > 0
            assert a.statistics().mesh.counters.get("bad_frames", 0) == 0

    asyncio.run(story())


def test_a_hub_that_invents_frames_reaches_nobody(tmp_path):
    async def story():
        async with nasty_hub() as hub, pair(tmp_path, hub) as (a, b):
            heard = Listener(b)
            true = [payload for topic, payload in hub.seen if topic == "mesh/v1/b/a"]
            for topic in ("mesh/v1/b/a", "mesh/v1/b/c", "mesh/v1/c", "mesh/v1/b/B!"):
                hub.publish(topic, b"")
                hub.publish(topic, b"rubbish" * 20)
                hub.publish(topic, true[-1])
                hub.publish(topic, true[-1][:2] + bytes(len(true[-1]) - 2))
            hub.publish("mesh/v1/b/a", bytes(300_000))
            await publish(a, range(3))
            await until(lambda: len(heard.payloads("t")) == 3, "the true ones")
            assert linked(a, b) and established(b) == {"a"}
            counted = counters(b)
            assert counted["refused"] == 8, "3 of a, 4 announcements of c, and the large one"
            assert counted["of_strangers"] == 8
            assert b.statistics().mesh.counters.get("bad_frames", 0) == 0

    asyncio.run(story())


def test_a_hub_that_does_not_read_costs_its_link_and_nothing_else(tmp_path):
    async def story():
        async with nasty_hub() as hub, pair(tmp_path, hub) as (a, b):
            c = await start("c", tmp_path, [a])
            await until(lambda: linked(a, c), "a direct neighbour")
            at_b, at_c = Listener(b), Listener(c)
            hub.deaf = True
            for number in range(100):
                await a.publish("t", b"%d" % number + bytes(50_000), qos=1)
                assert a._foreign.hubs[0].unsent_bytes < 1024 * 1024
            await until(lambda: len(at_c.payloads("t")) == 100, "all at the neighbour that reads")
            hub.deaf = False
            await until(lambda: len(at_b.payloads("t")) >= 100, "all, later")
            assert [payload.rstrip(b"\0") for payload in at_b.payloads("t")] == payloads(100)
            await c.stop()

    asyncio.run(story())


def test_other_keys_do_not_meet(tmp_path):
    async def story():
        async with nasty_hub() as hub:
            a = await start("a", tmp_path, hubs=at(hub))
            b = await start("b", tmp_path, hubs=at(hub, b"x" * 32, ("a",)))
            c = await start("c", tmp_path, hubs=at(hub))
            await until(lambda: linked(a, c), "those with the same key")
            await until(lambda: counters(a).get("refused"), "a refusal that is counted")
            assert established(b) == set()
            for node in (a, b, c):
                await node.stop()

    asyncio.run(story())


@needs_nats
def test_a_hub_that_lets_nobody_in_is_told(tmp_path):
    async def story():
        extra = 'authorization {{ user: "x", password: "y" }}\n'
        async with foreign("nats", tmp_path, extra) as hub:
            stranger = await start("a", tmp_path, hubs=at(hub))
            await until(
                lambda: "refuses the connection" in stranger.statistics().hubs[0].last_failure,
                "the reason",
            )
            known = Address("127.0.0.1", hub.port, "x", b"y")
            b = await start("b", tmp_path, hubs=[HubAt(known, KEY)])
            await until(lambda: b.statistics().hubs[0].connected, "one who knows the password")
            await stranger.stop()
            await b.stop()

    asyncio.run(story())
