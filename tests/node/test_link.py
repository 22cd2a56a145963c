"""The dialling end of a link."""

import asyncio
import contextlib
import gc
import socket
import sys
import threading
from random import Random

import pytest

from broker.dialler import Dialler, Wish
from broker.embedded import packets
from broker.link import Neighbour
from broker.lookup import Lookup
from broker.mqtt_client import connect
from broker.radio import Radio
from tests.program import DEADLINE_S, started
from tests.waiting import until


class Owner:
    def __init__(self):
        self.up = asyncio.Event()

    def link_dialled(self, peer, pipe):
        self.up.set()

    def link_frame(self, peer, pipe, frame):
        pass

    def link_detached(self, peer, pipe):
        self.up.clear()

    def request_flush(self):
        pass


async def nobody_linked(peer):
    return


def dialler(host, port, owner):
    wish = Wish(lambda peer: False, nobody_linked)
    return Dialler("a", Neighbour("b", host, port), owner, wish, Radio(), Random(1))


async def stopped(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_slow_look_up_is_not_started_anew_with_each_attempt(monkeypatch, caplog):
    started, answered = [], threading.Event()

    def slow(*arguments, flags=0, **options):
        if not flags:
            started.append(arguments)
            answered.wait()
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    async def story():
        dial = dialler("b.example", 1883, Owner())
        task = asyncio.create_task(dial.run())
        await until(lambda: dial.failures >= 3, "attempts")
        assert len(started) == 1
        answered.set()
        await until(lambda: len(started) >= 2, "the next look-up, after the first was answered")
        await until(lambda: "name resolution" in dial.last_failure, "the reason")
        await stopped(task)
        gc.collect()

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr("broker.dialler.CONNECT_TIMEOUT_S", 0.01)
    asyncio.run(story())
    assert "never retrieved" not in caplog.text


def test_a_look_up_that_got_no_thread_is_tried_again(monkeypatch):
    starts = []
    start = threading.Thread.start

    def refused_once(thread):
        starts.append(thread)
        if len(starts) == 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    async def story():
        lookup = Lookup("b.example", 1883)
        with pytest.raises(OSError, match="can't start new thread"):
            await lookup.connect(asyncio.Protocol)
        with pytest.raises(socket.gaierror, match="name resolution"):
            await lookup.connect(asyncio.Protocol)

    def unresolved(*arguments, **options):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    monkeypatch.setattr(threading.Thread, "start", refused_once)
    asyncio.run(story())
    assert len(starts) == 2


UNANSWERED = """
import socket, sys, threading
from agent.cli import main

def ask(host, *arguments, flags=0, of=socket.getaddrinfo, **options):
    if host == "away.example" and not flags:
        print("asked", flush=True)
        threading.Event().wait()
    return of(host, *arguments, flags=flags, **options)

socket.getaddrinfo = ask
sys.modules["uvloop"] = None  # it asks past the socket module
sys.argv = ["flockmq", "run"]
main()
"""
AWAY = """
device = "a"
broker = { port = 0, plain_listen = true }
neighbour = [{ name = "b", host = "away.example" }]
"""


def test_a_device_ends_beside_a_resolver_that_does_not_answer(tmp_path):
    (tmp_path / "device.toml").write_text(AWAY)
    with started([sys.executable, "-P", "-c", UNANSWERED], cwd=tmp_path) as process:
        assert process.stdout.readline() == "asked\n"
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("host", ["x..local", "b.example\0", "256.256.256.256"])
def test_a_host_that_is_none_is_told_and_the_dialler_goes_on(host):
    async def story():
        dial = dialler(host, 1883, Owner())
        task = asyncio.create_task(dial.run())
        await until(lambda: dial.failures >= 2, "a second attempt")
        await stopped(task)
        return dial.last_failure

    assert asyncio.run(story())


def test_a_neighbour_that_hangs_up_at_once_is_not_dialled_in_a_loop():
    async def story():
        dialled = []

        async def greet_and_hang_up(reader, writer):
            dialled.append(1)
            await reader.readuntil(b"mesh-a")
            writer.write(packets.encode_connack(0))
            await reader.readexactly(2)
            writer.write(packets.encode_suback(1, b"\0"))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(greet_and_hang_up, "127.0.0.1", 0)
        dial = dialler("127.0.0.1", server.sockets[0].getsockname()[1], Owner())
        task = asyncio.create_task(dial.run())
        await until(lambda: dial.failures >= 3, "attempts")
        assert len(dialled) <= 4
        assert "closes the link" in dial.last_failure
        await stopped(task)
        server.close()
        await server.wait_closed()

    asyncio.run(story())


@contextlib.asynccontextmanager
async def silence():
    """A broker that takes connections and says nothing; its port."""
    visits = []

    async def say_nothing(reader, writer):
        visits.append(asyncio.current_task())
        with contextlib.suppress(OSError):
            await reader.read()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    await asyncio.gather(*visits)


def test_a_neighbour_that_takes_the_connection_and_says_nothing_is_tried_again(monkeypatch):
    monkeypatch.setattr("broker.dialler.CONNECT_TIMEOUT_S", 0.05)

    async def story():
        async with silence() as port:
            dial = dialler("127.0.0.1", port, Owner())
            task = asyncio.create_task(dial.run())
            await until(lambda: dial.failures >= 2 or task.done(), "a second attempt")
            assert not task.done()
            await stopped(task)

    asyncio.run(story())


def test_so_is_a_hub_or_a_foreign_broker(monkeypatch):
    monkeypatch.setattr("broker.mqtt_client.CONNECT_TIMEOUT_S", 0.05)

    async def story():
        async with silence() as port:
            with pytest.raises(TimeoutError):
                await connect(Lookup("127.0.0.1", port), packets.encode_connect("a", 1), Owner())

    asyncio.run(story())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (packets.encode_connack(5), "refuses this device"),
        (packets.encode_connack(0) + packets.encode_suback(1, b"\x80"), "refuses the link"),
        (b"HTTP/1.1 400 Bad Request\r\n", "not MQTT"),
        (b"", "no answer|closed"),
    ],
)
def test_who_answers_but_is_no_neighbour_is_told_and_tried_again(answer, reason, caplog):
    async def story():
        async def answer_once(reader, writer):
            await reader.read(100)
            writer.write(answer)
            if not answer:
                writer.close()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
        dial = dialler("127.0.0.1", server.sockets[0].getsockname()[1], Owner())
        task = asyncio.create_task(dial.run())
        await until(lambda: dial.failures >= 2, "a second attempt")
        await stopped(task)
        server.close()
        await server.wait_closed()
        gc.collect()
        return dial.last_failure

    last = asyncio.run(story())
    assert any(part in last for part in reason.split("|")), last
    assert "never retrieved" not in caplog.text
