"""Calls between real nodes: answers, errors, relays that die, and what MQTT clients see."""

import asyncio
import contextlib
import inspect
import json
import os
from itertools import pairwise

import pytest

from broker import calls as calls_module
from broker.calls import Calls
from broker.errors import CallFailed, CallTimeout, Refused, Unreachable
from broker.topic_names import call_topic, chunk_topic, reply_topic
from tests.node.clients import lines, mosquitto_pub, mosquitto_sub, needs_mosquitto
from tests.node.fleet import Listener, chain, graph, start
from tests.waiting import until

SITE = "site"
RING = [*pairwise("abcdefgh"), ("a", "h")]


def run(coroutine):
    asyncio.run(coroutine)


def ask(sender, to, service="echo", call="1"):
    return call_topic(site=SITE, to=to, service=service, sender=sender, call=call)


def counter(node, name):
    return node.statistics().mesh.counters.get(name, 0)


async def speak(nodes, heard_by=()):
    """Have every node say something, so that ways are known."""
    listeners = [Listener(node) for node in nodes]
    for node in nodes:
        node.publish_nowait(f"here/{node.device}", b"", qos=1)
    for listener in listeners:
        await until(
            lambda listener=listener: len({m.origin for m in listener.heard}) == len(nodes),
            "word of everyone",
        )


@contextlib.asynccontextmanager
async def heartbeats(nodes):
    """What agents do: a word from each node, again and again."""

    async def beat():
        while True:
            for node in nodes:
                node.publish_nowait(f"here/{node.device}", b"")
            await asyncio.sleep(0.2)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


def test_a_call_brings_the_answer_of_plain_and_asynchronous_services(tmp_path):
    async def story():
        async with chain(tmp_path) as (a, b, c):
            await speak([a, b, c])
            asking, serving = Calls(a, SITE), Calls(c, SITE)
            requests = []

            async def later(request):
                requests.append(request)
                await asyncio.sleep(0)
                return b'{"later": true}'

            serving.serve("echo", lambda request: request.payload)
            serving.serve("later", later)
            assert await asking.call("c", "echo", b'{"n": 1}') == b'{"n": 1}'
            assert await asking.call("c", "later", b"[]") == b'{"later": true}'
            assert [(r.sender, r.payload) for r in requests] == [("a", b"[]")]
            many = await asyncio.gather(
                *(asking.call("c", "echo", b"%d" % number) for number in range(50))
            )
            assert many == [b"%d" % number for number in range(50)]
            assert counter(b, "unicast_relayed") >= 4
            assert counter(a, "unicast_resent") == 0

    run(story())


def test_a_device_calls_itself(tmp_path):
    async def story():
        node = await start("a", tmp_path)
        calls = Calls(node, SITE)
        calls.serve("echo", lambda request: request.payload)
        assert await calls.call("a", "echo", b'"x"') == b'"x"'
        await node.stop()

    run(story())


@pytest.mark.parametrize("how", ["stopped", "silent"])
def test_a_call_across_four_hops_while_a_relay_dies(tmp_path, how):
    async def story():
        async with graph(tmp_path, RING) as nodes:
            await speak(nodes.values())
            asking, serving = Calls(nodes["a"], SITE), Calls(nodes["e"], SITE)
            served, dead = asyncio.Event(), asyncio.Event()

            async def slow(request):
                served.set()
                await dead.wait()
                return request.payload

            serving.serve("slow", slow)
            serving.serve("echo", lambda request: request.payload)
            await asking.call("e", "echo", b"0")
            through = "c" if counter(nodes["c"], "unicast_relayed") else "g"
            call = asyncio.create_task(asking.call("e", "slow", b"1", deadline_ms=20_000))
            await served.wait()  # the question has gone through the relay, the answer has not
            if how == "stopped":
                await nodes[through].stop()
            else:
                left, right = ("b", "d") if through == "c" else ("f", "h")
                nodes[through].radio.silence({left, right})
                nodes[left].radio.silence({through})
                nodes[right].radio.silence({through})
            dead.set()
            alive = [node for name, node in nodes.items() if name != through]
            async with heartbeats(alive):
                assert await call == b"1"
                assert await asking.call("e", "slow", b"2", deadline_ms=20_000) == b"2"
            assert counter(nodes["g" if through == "c" else "c"], "unicast_relayed") >= 1

    run(story())


def test_a_device_that_nobody_knows_is_unreachable(tmp_path):
    async def story():
        async with chain(tmp_path, "ab") as (a, _):
            with pytest.raises(Unreachable, match="echo of nobody"):
                await Calls(a, SITE).call("nobody", "echo", b"0", deadline_ms=1_500)
            assert "not delivered to nobody: unreachable" in a.statistics().last_problem
            assert counter(a, "unicast_unreachable") == 1

    run(story())


def test_errors_come_back_to_the_caller(tmp_path):
    async def story():
        async with chain(tmp_path, "ab") as (a, b):
            asking, serving = Calls(a, SITE), Calls(b, SITE)

            async def broken(request):
                raise KeyError(request.call)

            serving.serve("plain", lambda request: 1 / 0)
            serving.serve("broken", broken)
            serving.serve("text", lambda request: b"no json")
            serving.serve("none", lambda request: None)
            serving.serve("large", lambda request: b'"' + bytes(b"x" * 300_000) + b'"')
            for service, text in (
                ("plain", "ZeroDivisionError"),
                ("broken", "KeyError"),
                ("text", "JSON"),
                ("none", "TypeError"),
                ("large", "300"),
            ):
                with pytest.raises(CallFailed, match=text) as failed:
                    await asking.call("b", service, b"0")
                assert failed.value.kind == "failed"
            with pytest.raises(CallFailed, match="no service other") as failed:
                await asking.call("b", "other", b"0")
            assert failed.value.kind == "no-service"

    run(story())


def test_a_service_that_does_not_answer_is_a_timeout_and_more_than_enough_of_them_are_busy(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(calls_module, "HANDLERS_MAX", 3)

    async def story():
        async with chain(tmp_path, "ab") as (a, b):
            asking, serving = Calls(a, SITE), Calls(b, SITE)
            never = asyncio.Event()

            async def stuck(request):
                await never.wait()
                return request.payload

            serving.serve("stuck", stuck)
            results = await asyncio.gather(
                *(asking.call("b", "stuck", b"0", deadline_ms=2_000) for _ in range(5)),
                return_exceptions=True,
            )
            assert [type(result) for result in results] == [CallTimeout] * 3 + [CallFailed] * 2
            assert {result.kind for result in results[3:]} == {"busy"}
            await serving.close()
            assert not serving._running
            assert not asking._waiting

    run(story())


def test_who_closes_before_a_service_has_begun_leaves_nothing_that_nobody_awaits(tmp_path):
    async def later():
        return b"0"

    async def story():
        node = await start("a", tmp_path)
        calls = Calls(node, SITE)
        answering = later()
        calls.serve("later", lambda request: answering)
        node.publish_nowait(ask("a", "a", "later"), b"0")
        node._turn.flush()
        await calls.close()
        assert inspect.getcoroutinestate(answering) == inspect.CORO_CLOSED
        await node.stop()

    run(story())


def test_what_is_wrong_with_a_call_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(calls_module, "WAITING_MAX", 0)

    async def story():
        node = await start("a", tmp_path)
        calls = Calls(node, SITE)
        with pytest.raises(ValueError, match="JSON"):
            await calls.call("b", "echo", b"no json")
        with pytest.raises(Refused):
            await calls.call("b", "echo", b"0")
        with pytest.raises(ValueError, match="deadline"):
            await node.publish(ask("a", "b"), b"0", deadline_ms=0)
        await node.stop()

    run(story())


def test_nobody_speaks_for_another_device(tmp_path):
    async def story():
        async with chain(tmp_path) as (a, b, c):
            await speak([a, b, c])
            serving = Calls(c, SITE)
            heard = []
            serving.serve("echo", lambda request: heard.append(request) or b"0")
            await b.publish(ask("a", "c"), b"0")
            await b.publish(reply_topic(site=SITE, to="c", sender="a", call="1"), b"0")
            await until(lambda: serving.forged == 2, "both")
            assert heard == []

    run(story())


def test_chunks_travel_to_one_device_as_they_are_and_too_many_are_refused(tmp_path):
    async def story():
        async with chain(tmp_path) as (a, b, c):
            await speak([a, b, c])
            at_b, at_c = Listener(b), Listener(c)
            topic = chunk_topic(site=SITE, to="c", sender="a", transfer="1")
            sent = [os.urandom(50_000) for _ in range(20)]
            for chunk in sent:
                a.publish_nowait(topic, chunk, deadline_ms=20_000)
            with pytest.raises(Refused, match="under way to c"):
                a.publish_nowait(topic, bytes(100_000))
            await until(lambda: len(at_c.payloads(topic)) == 20, "all")
            assert sorted(at_c.payloads(topic)) == sorted(sent)
            assert at_b.payloads(topic) == []

    run(story())


@needs_mosquitto
def test_mqtt_clients_call_and_see_calls_where_they_are_addressed(tmp_path):
    async def story():
        async with chain(tmp_path) as (a, b, c):
            await speak([a, b, c])
            Calls(c, SITE).serve("echo", lambda request: request.payload)
            elsewhere = Listener(b)
            async with (
                mosquitto_sub(c, "-t", "flock/#", "-q", "1") as at_c,
                mosquitto_sub(a, "-t", "flock/v1/+/reply/#", "-q", "1") as at_a,
            ):
                await mosquitto_pub(a.port, "-t", ask("a", "c", call="7"), "-m", "[1]", "-q", "1")
                assert await lines(at_c, 1) == [ask("a", "c", call="7").encode() + b" [1]"]
                (reply,) = await lines(at_a, 1)
            topic, _, payload = reply.partition(b" ")
            assert topic.decode() == reply_topic(site=SITE, to="a", sender="c", call="7")
            assert json.loads(payload) == {"result": [1]}
            assert not [m for m in elsewhere.heard if m.topic.startswith("flock/")]

    run(story())
