"""Nodes with real sockets, stores and MQTT clients."""

import asyncio
import contextlib
import os
import shutil
from contextlib import closing
from itertools import permutations

import pytest

from broker.errors import Refused
from broker.link import Neighbour
from broker.store import Store
from tests.node.clients import lines, mosquitto_pub, mosquitto_sub, needs_mosquitto
from tests.node.fleet import Listener, chain, established, start
from tests.power import FullDisk
from tests.waiting import until


def run(coroutine):
    asyncio.run(coroutine)


@needs_mosquitto
def test_any_clients_topic_travels_to_clients_of_other_devices(tmp_path):
    async def story():
        async with chain(tmp_path) as (a, _, c), mosquitto_sub(c, "-t", "home/#", "-q", "1") as out:
            await mosquitto_pub(a.port, "-t", "home/lamp", "-m", "on", "-q", "1")
            await mosquitto_pub(a.port, "-t", "home/bell", "-m", "ding", "-q", "0")
            assert await lines(out, 2) == [b"home/lamp on", b"home/bell ding"]

    run(story())


@needs_mosquitto
def test_retained_values_reach_late_subscribers_elsewhere_and_deletions_too(tmp_path):
    async def story():
        async with chain(tmp_path) as (a, _, c):
            await mosquitto_pub(a.port, "-t", "home/mode", "-m", "night", "-q", "1", "-r")
            await until(lambda: list(c.retained_matching("home/#")), "retained")
            async with mosquitto_sub(c, "-t", "home/#", "-q", "1") as out:
                assert await lines(out, 1) == [b"home/mode night"]
            await mosquitto_pub(a.port, "-t", "home/mode", "-n", "-q", "1", "-r")
            await until(lambda: not list(c.retained_matching("home/#")), "deleted")

    run(story())


@needs_mosquitto
def test_local_topics_stay_on_their_device(tmp_path):
    async def story():
        async with chain(tmp_path, "ab") as (a, b):
            heard = Listener(b)
            async with mosquitto_sub(a, "-t", "local/#") as out:
                await mosquitto_pub(a.port, "-t", "local/x", "-m", "mine", "-q", "1")
                await mosquitto_pub(a.port, "-t", "home/x", "-m", "ours", "-q", "1")
                assert await lines(out, 1) == [b"local/x mine"]
            await until(lambda: heard.payloads("home/x"), "the shared one")
            assert heard.payloads("local/x") == []

    run(story())


def test_a_published_message_is_on_disk_when_publish_returns(tmp_path):
    async def story():
        node = await start("a", tmp_path)
        await node.publish("t", b"kept", qos=1)
        copy = tmp_path / "copy" / "a"
        shutil.copytree(tmp_path / "a", copy)  # what a kill -9 would leave behind
        await node.stop()
        again = await start("a", tmp_path / "copy")
        heard = Listener(again)
        b = await start("b", tmp_path, [again])
        news = Listener(b)
        await until(lambda: news.payloads("t"), "the message")
        assert news.payloads("t") == [b"kept"]
        assert heard.payloads("t", rebuild=False) == []
        await b.stop()
        await again.stop()

    run(story())


def test_both_ends_dialling_end_up_with_one_link(tmp_path):
    async def story():
        a = await start("a", tmp_path)
        b = await start("b", tmp_path, [a])
        a.dial(Neighbour("b", "127.0.0.1", b.port))
        await until(lambda: established(a) == {"b"} and established(b) == {"a"}, "a link")
        heard = Listener(b)
        for number in range(20):
            await a.publish("t", b"%d" % number, qos=1)
        await until(lambda: len(heard.payloads("t")) >= 20, "all")
        assert heard.payloads("t") == [b"%d" % number for number in range(20)]
        await b.stop()
        await a.stop()

    run(story())


def test_devices_that_all_dial_each_other_at_once_have_one_link_a_pair(tmp_path):
    async def story():
        nodes = [await start(name, tmp_path) for name in "abcd"]
        for one, other in permutations(nodes, 2):
            one.dial(Neighbour(other.device, "127.0.0.1", other.port))
        everybody = {node.device for node in nodes}

        def settled():
            one_each = sum(node.statistics().broker.connections for node in nodes) == 6
            return one_each and all(established(n) == everybody - {n.device} for n in nodes)

        await until(settled, "one link for each pair")
        down = []
        for node in nodes:
            node.watch_links(lambda peer, up, node=node: down.append((node.device, peer, up)))
        heard = [Listener(node) for node in nodes]
        for node in nodes:
            await node.publish("t", node.device.encode(), qos=1)
        await until(lambda: all(len(h.payloads("t")) == 4 for h in heard), "all")
        assert down == []
        assert settled()
        for node in nodes:
            await node.stop()

    run(story())


def test_a_link_is_let_go_by_the_device_that_dialled_it(tmp_path):
    async def story():
        async with chain(tmp_path, "ab") as (a, b):
            a.links.undial("b")
            assert established(a) == {"b"}
            b.links.undial("a")
            await until(lambda: not established(a) and not established(b), "no link")
            assert b.statistics().dial_failures == {}
            a.dial(Neighbour("b", "127.0.0.1", b.port))
            await until(lambda: established(b) == {"a"}, "a link that the other dialled")

    run(story())


def test_where_a_neighbour_listens_may_change_under_a_link(tmp_path):
    async def story():
        a = await start("a", tmp_path)
        b = await start("b", tmp_path, [a])
        await until(lambda: established(b) == {"a"}, "a link")
        b.dial(Neighbour("a", "127.0.0.1", 9))
        assert established(b) == {"a"}
        port = a.port
        await a.stop()
        await until(lambda: "a" in b.statistics().dial_failures, "a failure")
        again = await start("a", tmp_path, port=port)
        b.dial(Neighbour("a", "127.0.0.1", port))
        await until(lambda: established(b) == {"a"}, "a link")
        await b.stop()
        await again.stop()

    run(story())


def test_a_neighbour_that_comes_later_is_found(tmp_path):
    async def story():
        probe = await start("b", tmp_path)
        port = probe.port
        await probe.stop()
        a = await start("a", tmp_path)
        a.dial(Neighbour("b", "127.0.0.1", port))
        await until(lambda: "b" in a.statistics().dial_failures, "a failure that is told")
        b = await start("b", tmp_path, port=port)
        await until(lambda: established(a) == {"b"}, "a link")
        assert a.statistics().dial_failures == {}
        await b.stop()
        await a.stop()

    run(story())


def test_a_silenced_radio_cuts_the_fleet_and_nothing_is_lost_when_it_is_back(tmp_path):
    async def story():
        async with chain(tmp_path) as (a, b, c):
            heard = Listener(a)
            c.radio.silence({"b"})
            b.radio.silence({"c"})
            await until(lambda: established(b) == {"a"} and not established(c), "the cut")
            for number in range(10):
                await c.publish("t", b"%d" % number, qos=1)
            await a.publish("t", b"here", qos=1)
            assert heard.payloads("t") == [b"here"]
            b.radio.restore()
            c.radio.restore()
            await until(lambda: len(heard.payloads("t")) == 11, "the rest")
            assert heard.payloads("t") == [b"here"] + [b"%d" % number for number in range(10)]

    run(story())


def test_a_bad_frame_is_counted_and_the_next_one_is_heard(tmp_path):
    async def story():
        async with chain(tmp_path, "ab") as (a, b):
            heard = Listener(b)
            a.links._links["b"].pipe.send([b"\x01rubbish", b"", os.urandom(100)])
            await a.publish("t", b"fine", qos=1)
            await until(lambda: heard.payloads("t"), "the good one")
            statistics = b.statistics()
            assert statistics.mesh.counters["bad_frames"] == 3
            assert "bad frame from a" in statistics.last_problem

    run(story())


def test_an_oversized_publish_is_refused_with_the_reason(tmp_path):
    async def story():
        node = await start("a", tmp_path)
        with pytest.raises(Refused, match="send large things in chunks"):
            node.publish_nowait("t", bytes(300_000), qos=1)
        await node.stop()

    run(story())


def test_a_subscriber_that_fails_does_not_stop_the_mesh(tmp_path, caplog):
    async def story():
        node = await start("a", tmp_path)
        node.subscribe(lambda batch: 1 / 0)
        heard = Listener(node)
        await node.publish("t", b"x", qos=1)
        assert heard.payloads("t") == [b"x"]
        await node.stop()

    run(story())
    assert "a subscriber failed" in caplog.text


def test_what_could_not_be_stored_is_stored_when_the_disk_is_back(tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch, tmp_path / "b")

    async def story():
        async with chain(tmp_path, "ab") as (a, b):
            disk.room = 0
            heard = Listener(b)
            await a.publish("t", b"x", qos=1)
            await until(lambda: heard.payloads("t"), "the delivery")
            assert b.statistics().commits_failed >= 1
            disk.room = None
            await b.publish("other", b"y", qos=1)
        with closing(Store(tmp_path / "b")) as store:
            assert "a" in {origin for origin, _ in store.boot().passed}

    run(story())


def test_without_a_disk_nothing_is_acknowledged(tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch, tmp_path)

    async def story():
        node = await start("a", tmp_path)
        disk.room = 100_000
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x")
        assert await reader.readexactly(4) == b"\x20\x02\x00\x00"
        payload = os.urandom(200_000)
        body = b"\x00\x01t\x00\x07" + payload
        length = len(body)
        head = bytes([0x32, length & 127 | 128, length >> 7 & 127 | 128, length >> 14])
        writer.write(head + body)
        assert await asyncio.wait_for(reader.read(), 10) == b""  # closed, no PUBACK
        assert node.statistics().commits_failed >= 1
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await node.stop()

    run(story())
