"""Foreign brokers bridged for their own clients: real ones, and counts of every copy."""

import asyncio
import contextlib
from collections import Counter

import pytest

from broker import bridge_claims, bridge_inward
from broker.bridge import BridgeAt, Filter
from broker.mqtt_client import Address
from tests.foreign.brokers import KINDS, foreign
from tests.foreign.strangers import expected, stranger
from tests.node.fleet import Listener, established, start
from tests.waiting import until

IN = (Filter("in/#", 1), Filter("both/#", 1))
OUT = (Filter("out/#", 1), Filter("both/#", 1))


@pytest.fixture(autouse=True)
def decide_quickly(monkeypatch):
    monkeypatch.setattr(bridge_claims, "LISTEN_MS", 300)
    monkeypatch.setattr(bridge_inward, "LOOK_S", 0.2)


def at(broker, inward=IN, outward=OUT, name="plant"):
    return [BridgeAt(name, "home", Address("127.0.0.1", broker.port), inward, outward)]


def state(node):
    return node.statistics().bridges[0].state


@contextlib.asynccontextmanager
async def pair(directory, *bridges):
    """Two linked nodes; `bridges` of the first and, if given, of the second."""
    a = await start("a", directory, bridges=bridges[0])
    b = await start("b", directory, [a], bridges=bridges[1] if len(bridges) > 1 else ())
    try:
        await until(lambda: established(a) == {"b"} and established(b) == {"a"}, "a link")
        await until(lambda: "active" in [state(n) for n in (a, b)[: len(bridges)]], "a bridge")
        yield a, b
    finally:
        for node in (a, b):
            if not node._turn.closed:
                await node.stop()


def copies(listener, prefix):
    return Counter((m.topic, m.payload) for m in listener.heard if m.topic.startswith(prefix))


@pytest.mark.parametrize("kind", KINDS)
def test_each_message_crosses_once_and_none_comes_back(tmp_path, kind):
    async def story():
        async with foreign(kind, tmp_path) as broker, pair(tmp_path, at(broker)) as (a, b):
            assert a.statistics().bridges[0].knows_bridges is (kind == "mosquitto")
            heard = Listener(b)
            async with stranger(broker) as outside:
                for number in range(40):
                    await outside.publish("in/x", b"%d" % number)
                    await outside.publish("both/x", b"outside %d" % number)
                    await b.publish("out/x", b"%d" % number, qos=1)
                    await b.publish("both/x", b"inside %d" % number, qos=1)
                for _ in range(5):
                    await outside.publish("both/same", b"again")
                    await b.publish("both/same", b"again", qos=1)
                await b.publish("elsewhere", b"stays", qos=1)
                await b.publish("local/out", b"stays", qos=1)
                await b.publish("out/last", b"", qos=1)
                await outside.publish("in/last", b"")
                await until(lambda: copies(heard, "in/last"), "the last one in")
                await until(
                    lambda: sum(copies(heard, "both/same").values()) >= 10, "the equal ones"
                )
                await until(lambda: len(outside.heard) >= 172, "all outside")
            both = {
                ("both/x", b"%s %d" % (side, n)): 1
                for side in (b"inside", b"outside")
                for n in range(40)
            }
            both["both/same", b"again"] = 10
            assert copies(heard, "in/x") == expected("in/x", 40)
            assert copies(heard, "both/") == both
            last = {("out/last", b""): 1, ("in/last", b""): 1}
            assert outside.counts == {
                **expected("in/x", 40),
                **expected("out/x", 40),
                **both,
                **last,
            }
            assert [m.payload for m in heard.heard if m.topic == "in/x"] == [
                b"%d" % n for n in range(40)
            ]

    asyncio.run(story())


@pytest.mark.parametrize("kind", KINDS)
def test_retained_values_and_their_deletions_cross_both_ways(tmp_path, kind):
    async def story():
        async with foreign(kind, tmp_path) as broker:
            async with stranger(broker) as before:
                await before.publish("in/old", b"from before", retain=True)
            async with pair(tmp_path, at(broker)) as (_, b):
                await until(lambda: b.retained_value("in/old") == b"from before", "what was there")
                await b.publish("out/mode", b"night", qos=1, retained=True)

                async def held():
                    async with stranger(broker) as late:
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(0.3):
                                while not late.heard:
                                    await asyncio.sleep(0.01)
                                await asyncio.sleep(0.1)
                        return {(topic, payload) for topic, payload, retain in late.heard if retain}

                async def comes(what):
                    async with asyncio.timeout(20):
                        while await held() != what:
                            await asyncio.sleep(0.05)

                await comes({("in/old", b"from before"), ("out/mode", b"night")})
                await b.publish("out/mode", b"", qos=1, retained=True)
                await comes({("in/old", b"from before")})
                async with stranger(broker) as outside:
                    await outside.publish("in/new", b"first", retain=True)
                    await until(lambda: b.retained_value("in/new") == b"first", "a new one")
                    await outside.publish("in/new", b"", retain=True)
                    await until(lambda: b.retained_value("in/new") == b"", "its deletion")
                    await outside.publish("in/old", b"newer", retain=True)
                    await until(lambda: b.retained_value("in/old") == b"newer", "the newer one")
                    await outside.publish("in/old", b"", retain=True)
                    await until(lambda: b.retained_value("in/old") == b"", "the deletion")

    asyncio.run(story())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_waits_for_a_broker_that_is_killed_and_comes_back(tmp_path, kind):
    async def story():
        async with foreign(kind, tmp_path) as broker, pair(tmp_path, at(broker)) as (a, b):
            await b.publish("out/0", b"", qos=1)
            await until(lambda: a.statistics().bridges[0].counters.get("out") == 1, "its PUBACK")
            await broker.kill()
            await until(lambda: state(a) == "away", "that it is away")
            for number in range(1, 100):
                # Retained, so that whoever comes late can tell that it was there.
                await b.publish(f"out/{number}", b"x", qos=1, retained=number % 2 == 1)
            await b.publish("out/fresh", b"skipped", qos=0)
            await until(lambda: a.statistics().bridges[0].waiting == 99, "all that was kept waits")
            await broker.start()
            await until(lambda: a.statistics().bridges[0].counters["out"] == 100, "every PUBACK")
            assert a.statistics().bridges[0].waiting == 0
            async with stranger(broker) as late:
                await until(lambda: len(late.heard) >= 50, "the retained ones")
            assert late.counts == {(f"out/{number}", b"x"): 1 for number in range(1, 100, 2)}

    asyncio.run(story())


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_attachments_one_is_active_and_the_other_takes_over(tmp_path, kind):
    async def story():
        async with (
            foreign(kind, tmp_path) as broker,
            pair(tmp_path, at(broker), at(broker)) as (a, b),
        ):
            await until(lambda: state(a) == "active" and state(b) == "standby", "one of them")
            heard = Listener(b)
            async with stranger(broker) as outside:
                for number in range(50):
                    await outside.publish("both/x", b"%d" % number)
                    await b.publish("out/x", b"%d" % number, qos=1)
                await until(lambda: len(outside.counts) == 100, "all out")
                await until(lambda: len(copies(heard, "both/x")) == 50, "all in")
                await crash(a)
                await until(lambda: state(b) == "active", "the takeover")
                for number in range(50, 100):
                    await outside.publish("both/x", b"%d" % number)
                    await b.publish("out/x", b"%d" % number, qos=1)
                await until(lambda: len(outside.counts) >= 200, "all out")
                await until(lambda: copies(heard, "both/x").total() >= 100, "all in")
            assert copies(heard, "both/x") == expected("both/x", 100)
            assert outside.counts == {**expected("both/x", 100), **expected("out/x", 100)}

    asyncio.run(story())


async def crash(node):
    """What kill -9 does, as far as others can tell: silence, and sockets that close."""
    for bridge in node._foreign.bridges:
        bridge._say = lambda claim: None
        bridge._delivered = lambda batch: None
    await node.stop()


def test_one_that_stops_hands_over_at_once_and_stands_by_when_it_returns(tmp_path):
    async def story():
        async with (
            foreign("mosquitto", tmp_path) as broker,
            pair(tmp_path, at(broker), at(broker)) as (a, b),
        ):
            await until(lambda: state(b) == "standby", "one stands by")
            heard = Listener(b)
            await a.stop()
            await until(lambda: state(b) == "active", "the takeover")
            async with stranger(broker) as outside:
                await outside.publish("in/x", b"while a is away")
                await until(lambda: copies(heard, "in/x"), "the message")
            again = await start("a", tmp_path, [b], bridges=at(broker))
            at_a = Listener(again)
            await until(lambda: state(again) == "standby", "the other stands by")
            async with stranger(broker) as outside:
                await outside.publish("in/x", b"after")
                await until(lambda: len(copies(heard, "in/x")) == 2, "the message")
                await until(lambda: ("in/x", b"after") in copies(at_a, "in/"), "the same at a")
            assert state(b) == "active"
            assert max(copies(heard, "in/x").values()) == 1
            assert max(copies(at_a, "in/x").values()) == 1
            await again.stop()

    asyncio.run(story())


def test_each_part_of_a_cut_mesh_exchanges_and_one_stays_when_it_heals(tmp_path):
    async def story():
        async with (
            foreign("mosquitto", tmp_path) as broker,
            pair(tmp_path, at(broker), at(broker)) as (a, b),
            stranger(broker) as outside,
        ):
            await until(lambda: {state(a), state(b)} == {"active", "standby"}, "one of them")
            at_a, at_b = Listener(a), Listener(b)
            a.radio.silence({"b"})
            b.radio.silence({"a"})
            await until(lambda: state(a) == state(b) == "active", "one in each part")
            await outside.publish("in/x", b"to both")
            await a.publish("out/a", b"", qos=1)
            await b.publish("out/b", b"", qos=1)
            await until(
                lambda: copies(at_a, "in/") and copies(at_b, "in/"), "one copy in each part"
            )
            await until(lambda: len(outside.counts) == 3, "what each part says")
            a.radio.restore()
            b.radio.restore()
            await until(lambda: (state(a), state(b)) == ("active", "standby"), "the smaller id")
            await until(lambda: copies(at_a, "in/")["in/x", b"to both"] == 2, "the other's copy")
            await outside.publish("in/x", b"healed")
            await b.publish("out/b", b"healed", qos=1)
            await until(lambda: ("out/b", b"healed") in outside.counts, "out")
            for heard in (at_a, at_b):
                await until(lambda heard=heard: ("in/x", b"healed") in copies(heard, "in/"), "in")
                assert copies(heard, "in/") == {("in/x", b"to both"): 2, ("in/x", b"healed"): 1}
            assert outside.counts["in/x", b"to both"] == 1, "what came in never goes out"
            assert outside.counts["out/b", b"healed"] == 1

    asyncio.run(story())
