"""Devices that are killed under load: what was acknowledged arrives, once, in order.

The relay has its log on disk: with one in memory, a relay and then an origin that are killed before anybody else has a
message take it with them, since the origin lets go of what its neighbour holds.
"""

import asyncio
from random import Random

import pytest

from tests.node.children import Child, ended
from tests.node.fleet import Listener, established, start
from tests.waiting import until


def numbers(listener, *, rebuild):
    return [int(payload) for payload in listener.payloads("t", rebuild=rebuild)]


@pytest.mark.parametrize("seed", [1, 2])
def test_publisher_and_relay_may_be_killed_at_any_moment(tmp_path, seed):
    random = Random(seed)

    async def story():
        c = await start("c", tmp_path)
        heard = Listener(c)
        a, h = Child("a", tmp_path / "a"), Child("h", tmp_path / "h", "disk")
        async with ended(a, h):
            await h.boot(c)
            await a.boot(h)
            await until(lambda: established(c) == {"h"} and not c.joining, "a link")
            a.publish()
            for _ in range(6):
                enough = a.kept + random.randrange(1, 400)
                await until(lambda enough=enough: a.kept >= enough, "acknowledgements")
                if random.random() < 0.6:
                    await a.kill()
                    await a.boot(h)
                    a.publish()
                else:
                    await h.kill()
                    await h.boot(c)
                    a.tell(f"dial h {h.port}")
            await a.kill()
            await a.boot(h)
            await until(
                lambda: a.kept in numbers(heard, rebuild=False), "the last acknowledged one"
            )
            got = numbers(heard, rebuild=False)
            assert got == sorted(set(got)), "twice, or out of order"
            assert set(range(a.kept + 1)) - a.doubtful <= set(got)
            assert max(got) <= a.tried
            assert c.statistics().gaps == 0
        await c.stop()

    asyncio.run(story())


def test_what_a_relay_has_on_disk_outlives_its_origin_and_its_own_restart(tmp_path):
    async def story():
        h, a = Child("h", tmp_path / "h", "disk"), Child("a", tmp_path / "a")
        async with ended(a, h):
            await h.boot()
            c = await start("c", tmp_path, [h])
            await a.boot(h)
            await until(lambda: established(c) == {"h"} and not c.joining, "a link")
            await c.stop()
            watcher = await start("d", tmp_path, [h])
            heard = Listener(watcher)
            a.publish()
            await until(lambda: a.kept >= 100, "acknowledgements")
            await a.kill()
            await until(lambda: established(watcher) == {"h"}, "a link")
            await until(lambda: len(set(numbers(heard, rebuild=None))) > 50, "what h relays")
            await watcher.stop()
            relayed = set(numbers(heard, rebuild=None))
            await h.kill()
            await h.boot()
            c = await start("c", tmp_path, [h])
            late = Listener(c)
            await until(lambda: relayed <= set(numbers(late, rebuild=False)), "all that h relayed")
            got = numbers(late, rebuild=False)
            assert got == sorted(set(got))
            assert c.statistics().gaps == 0
            await c.stop()

    asyncio.run(story())
