"""Persistent MQTT sessions outlive their device, stopped or killed at any moment."""

import asyncio
import errno
from random import Random

import pytest

from broker.embedded import packets
from broker.store import Store
from tests.node.children import Child, ended
from tests.node.clients import session
from tests.node.faithful import Faithful
from tests.node.fleet import start
from tests.waiting import until


def story(coroutine):
    asyncio.run(coroutine)


async def subscribe(raw, topic_filter, qos):
    """Subscribe; a persistent session may get messages before the SUBACK, which waits for the disk."""
    raw.send(packets.encode_subscribe(1, [(topic_filter, qos)]))
    early = []
    while (packet := await raw.packet())[0] != packets.SUBACK:
        early.append(packet)
    return early


async def gone(node):
    await until(lambda: not node.statistics().broker.connections, "the client to go")


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_and_qos2_is_exact_while_the_device_is_killed(tmp_path, qos, seed):
    random = Random(seed)

    async def told():
        device = Child("a", tmp_path / "a")
        pub, sub, away = Faithful("pub"), Faithful("sub"), Faithful("away")
        async with ended(device):
            await device.boot()
            await away.connect(device.port, ("t", qos))
            await away.disconnect()
            await sub.connect(device.port, ("t", qos))
            await pub.connect(device.port)
            for _ in range(5):
                writing = asyncio.ensure_future(pub.publish(100_000, qos))
                enough = pub.acknowledged + random.randrange(20, 200)
                await until(lambda enough=enough: pub.acknowledged >= enough, "acknowledgements")
                await device.kill()
                await writing
                await device.boot()
                for one in (sub, pub):
                    await one.connect(device.port)
            await until(lambda: pub.settled, "what was under way when it was killed")
            await away.connect(device.port)
            everything = {b"%d" % number for number in range(pub.published + 1)}
            for one in (sub, away):
                await until(lambda one=one: everything <= set(one.received), "all of it")
                assert all(one.resumed[1:])
            if qos == 2:
                for one in (sub, away):
                    assert [int(payload) for payload in one.received] == sorted(
                        map(int, everything)
                    )
            for one in (pub, sub, away):
                await one.disconnect()

    story(told())


def test_a_session_comes_back_as_it_was_after_a_stop(tmp_path):
    async def told():
        node = await start("a", tmp_path)
        async with session(node, present=False) as sub:
            for topic_filter, qos in (("t/#", 2), ("gone", 1), ("u", 0)):
                await subscribe(sub, topic_filter, qos)
            sub.send(b"\xa2\x08\0\2\0\4gone")
            await sub.expect(packets.UNSUBACK)
            for number, qos in ((1, 1), (2, 2), (3, 2)):
                await node.publish("t/x", b"flying %d" % number, qos=qos)
            flying = [await sub.publish() for _ in range(3)]
            sub.send(packets.encode_ack(packets.PUBREC, flying[1][3]))
            await sub.expect(packets.PUBREL)
            sub.send(packets.encode_publish("other", b"x", 2, packet_id=77))
            await sub.expect(packets.PUBREC)
        await gone(node)
        for number in range(20):
            await node.publish("t/q", b"%d" % number, qos=1)
        await node.stop()

        node = await start("a", tmp_path)
        heard = []
        node.subscribe(heard.extend)
        async with session(node, present=True) as sub:
            found = await sub.rest()
            assert found[0] == (packets.PUBREL, 2, flying[1][3].to_bytes(2, "big"))
            messages = [
                (flags, *packets.parse_publish(flags, body))
                for kind, flags, body in found
                if kind == packets.PUBLISH
            ]
            assert messages[:2] == [(flags | 8, *rest) for flags, *rest in (flying[0], flying[2])]
            assert [entry[2] for entry in messages[2:]] == [b"%d" % n for n in range(20)]
            sub.send(packets.encode_publish("other", b"x", 2, packet_id=77, duplicate=True))
            await sub.expect(packets.PUBREC)
            await node.publish("u", b"fresh")
            await node.publish("gone", b"no", qos=1)
            assert [(flags, topic) for flags, topic, _ in await sub.messages()] == [(0, "u")]
            # It had been published before the restart.
            assert not [m for m in heard if m.topic == "other" and not m.rebuild]
        await node.stop()

    story(told())


def test_a_clean_session_leaves_nothing_on_the_disk(tmp_path):
    async def told():
        node = await start("a", tmp_path)
        for clean in (False, True):
            async with session(node, clean=clean, present=False) as sub:
                await subscribe(sub, "t", 1)
                await node.publish("t", b"x", qos=1)
                await sub.publish()
            await gone(node)
        await node.stop()
        store = Store(tmp_path / "a")
        store.boot()
        assert store.sessions == []
        store.close()

    story(told())


def test_retained_messages_that_were_on_their_way_come_after_the_restart(tmp_path):
    async def told():
        node = await start("a", tmp_path)
        for number in range(2000):  # more than the window holds
            node.publish_nowait(f"r/{number}", b"x", qos=1, retained=True)
        await node.committed()
        async with session(node, present=False) as sub:
            await subscribe(sub, "r/#", 1)  # and none is acknowledged
            await node.committed()
            node._broker._exchange.leave = lambda *_: None  # as if it were killed now
        await node.stop()

        node = await start("a", tmp_path)
        async with session(node, present=True) as sub:
            topics = set()
            while len(topics) < 2000:
                flags, topic, _, packet_id = await sub.publish()
                assert flags & 1
                topics.add(topic)
                sub.send(packets.encode_ack(packets.PUBACK, packet_id))
        await node.stop()

    story(told())


def test_a_disk_that_fails_for_a_while_loses_nothing_of_a_session(tmp_path, monkeypatch):
    async def told():
        node = await start("a", tmp_path)
        async with session(node, present=False) as sub:
            await subscribe(sub, "t", 1)
        await gone(node)

        def full(record):
            raise OSError(errno.ENOSPC, "No space left on device")

        journal = node._commits._store._journals[-1]
        monkeypatch.setattr(journal, "append", full)
        node.publish_nowait("t", b"1", qos=1)
        await until(lambda: node.statistics().commits_failed, "a commit that fails")
        monkeypatch.undo()
        await node.publish("t", b"2", qos=1)
        await node.stop()

        node = await start("a", tmp_path)
        async with session(node, present=True) as sub:
            assert [payload for _, _, payload in await sub.messages()] == [b"1", b"2"]
        await node.stop()

    story(told())
