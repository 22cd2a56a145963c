"""Content by delta between real nodes: what it costs, and every reason for the full file."""

import asyncio
import threading
from random import Random

import pytest

from agent.models import fetch as fetch_module
from agent.models.content import Content, content_of
from agent.models.delta import apply_delta, make_delta
from agent.models.fetch import Fetcher
from agent.models.manifest import Delta
from tests.models.members import members
from tests.waiting import until

BASE = Random(1).randbytes(600_000)
LAYER = bytes((byte + 1) & 255 for byte in BASE[200_000:260_000])
TARGET = BASE[:200_000] + LAYER + BASE[260_000:]
DELTA = make_delta(BASE, TARGET)
FULL = content_of(TARGET)


def uploaded(member, data):
    return member.transfers.uploaded.get(content_of(data).sha256, 0)


def offer(delta=DELTA, base=None):
    return Delta(
        base=base or content_of(BASE).sha256, target=FULL.sha256, content=content_of(delta)
    )


async def fetch_by(fleet, *offers, at="b"):
    """Have a device fetch the target; what came of deltas."""
    member = fleet[at]
    fetcher = Fetcher(member.transfers, member.store)
    async with asyncio.timeout(30):
        await fetcher.fetch(FULL, offers)
    assert member.store.read(FULL.sha256) == TARGET
    assert member.store.content(FULL.sha256) == FULL
    return fetcher.report()


def test_only_the_difference_travels_where_the_base_is(tmp_path):
    async def story():
        async with members(tmp_path, ["ab", "bc"]) as fleet:
            for data in (TARGET, DELTA):
                fleet["a"].store.add(data)
            for name in "bc":
                fleet[name].store.add(BASE)
            for name in "bc":
                told = await fetch_by(fleet, offer(), at=name)
                assert told["applied"] == 1
                assert told["saved_bytes"] == len(TARGET) - len(DELTA)
                assert told["failed"] == {}
            for name in "ab":
                assert uploaded(fleet[name], TARGET) == 0
                assert uploaded(fleet[name], DELTA) == len(DELTA) < 0.1 * len(TARGET)

    asyncio.run(story())


def test_without_the_base_the_full_file_travels(tmp_path):
    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            for data in (TARGET, DELTA):
                fleet["a"].store.add(data)
            told = await fetch_by(fleet, offer())
            assert (told["applied"], told["failed"]) == (0, {"no base": 1})
            assert uploaded(fleet["a"], DELTA) == 0

    asyncio.run(story())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("nobody-has-it", "delta"),
        ("junk", "delta"),
        ("another-target", "delta"),
        ("base-decayed", "digest"),
    ],
)
def test_a_delta_that_is_of_no_use_costs_no_version(tmp_path, monkeypatch, how, reason):
    monkeypatch.setattr(fetch_module, "STALE_S", 0.5)
    delta = DELTA
    if how == "junk":
        delta = b"junk"
    elif how == "another-target":
        delta = make_delta(BASE, BASE[:-1] + b"x")

    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            fleet["a"].store.add(TARGET)
            if how != "nobody-has-it":
                fleet["a"].store.add(delta)
            base = fleet["b"].store.add(BASE).sha256
            if how == "base-decayed":
                (tmp_path / "models-b" / base).write_bytes(bytes(len(BASE)))
            told = await fetch_by(fleet, offer(delta, base))
            assert (told["applied"], told["failed"]) == (0, {reason: 1})
            assert content_of(BASE).sha256[:12] in told["last_failure"]
            assert uploaded(fleet["a"], TARGET) >= len(TARGET)

    asyncio.run(story())


def test_who_gives_up_while_a_delta_is_applied_waits_for_its_end(tmp_path, monkeypatch):
    """Or the next fetch of the same content would write to the same file meanwhile."""
    entered, released = threading.Event(), threading.Event()

    def slowly(delta, base):
        entered.set()
        assert released.wait(20)
        return apply_delta(delta, base)

    monkeypatch.setattr(fetch_module, "apply_delta", slowly)

    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            fleet["a"].store.add(DELTA)
            fleet["b"].store.add(BASE)
            fetcher = Fetcher(fleet["b"].transfers, fleet["b"].store)
            fetching = asyncio.create_task(fetcher.fetch(FULL, [offer()]))
            await until(entered.is_set, "it is applied")
            fetching.cancel()
            for _ in range(100):
                await asyncio.sleep(0)
            assert not fetching.done()
            released.set()
            await asyncio.gather(fetching, return_exceptions=True)
            assert fetching.cancelled()
            assert fleet["b"].store.holds(FULL.sha256)

    asyncio.run(story())


def test_content_that_is_there_needs_nobody(tmp_path):
    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            fleet["b"].store.add(TARGET)
            await fetch_by(fleet, offer())
            assert "unicast_sent" not in fleet["b"].node.statistics().mesh.counters

    asyncio.run(story())


def test_a_delta_towards_something_else_is_passed_over(tmp_path):
    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            fleet["a"].store.add(TARGET)
            fleet["b"].store.add(BASE)
            other = Delta(base=content_of(BASE).sha256, target="0" * 64, content=content_of(DELTA))
            told = await fetch_by(fleet, other)
            assert (told["applied"], told["failed"]) == (0, {})

    asyncio.run(story())


def test_a_manifest_that_says_another_size_than_a_delta_makes_costs_the_delta_only(tmp_path):
    target = BASE[:-1] + bytes([BASE[-1] ^ 1])
    delta = make_delta(BASE, target)
    said = content_of(target[:300], 300)
    lie = Content(content_of(target).sha256, said.size_bytes, said.chunk_bytes, said.chunks)
    assert len(delta) < lie.size_bytes

    async def story():
        async with members(tmp_path, ["ab"]) as fleet:
            fleet["a"].store.add(delta)
            base = fleet["b"].store.add(BASE).sha256
            fetcher = Fetcher(fleet["b"].transfers, fleet["b"].store)
            named = Delta(base=base, target=lie.sha256, content=content_of(delta))
            fetching = asyncio.create_task(fetcher.fetch(lie, [named]))
            await until(lambda: fetcher.report()["failed"] or fetching.done(), "a verdict")
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
            assert fetching.cancelled()
            assert fetcher.report()["failed"] == {"delta": 1}

    asyncio.run(story())
