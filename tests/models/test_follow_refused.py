"""What cannot be taken up, each counted by its reason; what runs goes on deciding."""

import asyncio
import errno
import os
import shutil
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest

from agent.infer.backend import ModelRejected
from agent.infer.kinds import Kind
from agent.infer.records import WorkerLost
from agent.infer.standby import StandbyClient
from agent.models import attempts, telling, version_files
from agent.models import follower as follower_module
from agent.models.content import content_of
from agent.models.errors import ContentDamaged, DiskFailed, StoreFull, TooLarge
from agent.models.manifest import Variant
from agent.models.partial import Partial
from tests.identity.fleet import T_MS
from tests.models.follow import (
    DENSE,
    OTHER,
    TOPIC,
    Desk,
    begin,
    followed,
    good,
    package,
    payload,
    until,
)

pytestmark = pytest.mark.timeout(120)


async def refused(it, wanted, reason, state=None):
    """That counts under this reason, and harms nothing."""
    before = it.follower.refused[reason]
    it.follower.want(wanted)
    await until(lambda: it.follower.refused[reason] == before + 1, reason)
    await until(lambda: it.statuses[-1].refused.get(reason) == before + 1, "that it is told")
    assert it.statuses[-1].running == "1"
    assert state in {None, it.statuses[-1].state}
    decided = len(it.decided)
    await until(lambda: len(it.decided) > decided + 3, "decisions")
    assert it.follower.version_of(it.decided[-1].model.sha256) == "1"
    assert it.lost() == (0, 0)


def test_what_an_operator_may_do_wrong_is_refused_by_reason(tmp_path, models):
    first, other = good(models), good(models, "2", OTHER)
    for_tpu = msgspec.structs.replace(
        other, variants=(Variant(kind=Kind.EDGETPU, content=content_of(b"compiled")),)
    )

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first, 5)
            await refused(it, payload(other, 6, life_ms=-500), "expired", "refused")
            await refused(it, payload(other, 4), "lower counter", "refused")
            await refused(it, payload(other, 5), "counter used twice", "refused")
            await refused(it, payload(for_tpu, 6), "no variant", "refused")
            await refused(it, b"{" * 300_000, "too large")
            await refused(it, b"nothing", "unreadable")
            it.follower.want(payload(other, 6))
            await it.becomes("2", "active", "2")

    asyncio.run(story())


def test_what_no_operator_has_signed_is_refused_by_reason(tmp_path, models):
    desk = Desk(tmp_path / "fleet")
    first, other = good(models), good(models, "2", OTHER)

    async def story():
        async with followed(tmp_path, models, trust=desk.trust, now_ms=T_MS) as it:
            it.follower.want(desk.signed(first, 1))
            await it.becomes("1", "active")
            await until(lambda: it.decided, "a decision")
            seal = desk.signed(other, 2)
            at = seal.index(b'"signature":"') + 20
            forged = seal[:at] + (b"A" if seal[at : at + 1] != b"A" else b"B") + seal[at + 1 :]
            await refused(it, forged, "wrong signature")
            await refused(it, payload(other, 2), "unsigned")
            it.follower.want(seal)
            await it.becomes("2", "active", "2")

    asyncio.run(story())


def test_what_is_not_even_let_in_is_counted_and_told(tmp_path, models, monkeypatch):
    """A client or another device says it, and no device's retained map takes it: the follower never hears of it."""
    monkeypatch.setattr(telling, "TELL_S", 0.01)
    desk = Desk(tmp_path / "fleet")
    first = good(models)

    async def story():
        async with followed(tmp_path, models, trust=desk.trust, now_ms=T_MS) as it:
            it.follower.want(desk.signed(first, 1))
            await it.becomes("1", "active")
            desk.trust.believes("flock/v1/town/model/other", b"", 9)
            for _ in range(2):
                assert not desk.trust.believes(TOPIC, payload(first, 9), 9)
            await until(lambda: it.status.refused == {"unsigned": 2}, "that it is told")
            assert (it.status.version, it.status.state, it.status.running) == ("1", "active", "1")
            assert "no operator has signed" in it.follower.last_refused

    asyncio.run(story())


def test_bytes_that_cannot_be_had_or_kept_are_told_by_reason_and_tried_again(
    tmp_path, models, monkeypatch
):
    monkeypatch.setattr(version_files, "FETCH_AGAIN_S", 0.05)
    first = good(models)
    missing = (Variant(kind=Kind.TFLITE, content=content_of(b"nobody has this yet" * 99)),)
    lost = msgspec.structs.replace(first, version="2", variants=missing)

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
            it.follower.want(payload(lost, 2))
            assert "bytes are fetched from others" in (await it.becomes("2", "missing", "1")).reason
            for error in (TooLarge("x"), StoreFull("x"), DiskFailed("x"), ContentDamaged("x")):
                it.neighbours.error = error
                it.follower.want(payload(lost, 3 + it.follower.refused.total()))
                reason = error.reason
                await until(lambda r=reason: it.follower.refused[r] > 2, reason)
                assert it.status.state == "missing"
                assert it.status.running == "1"
            it.neighbours.error = None
            it.follower.want(payload(good(models, "3", OTHER), 10_000))
            await it.becomes("3", "active", "3")
            assert it.lost() == (0, 0)

    asyncio.run(story())


def test_what_the_disk_does_not_take_is_taken_up_when_it_does(tmp_path, models, monkeypatch):
    monkeypatch.setattr(follower_module, "FETCH_AGAIN_S", 0.05)
    first, second = good(models), good(models, "2", OTHER)

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
            with monkeypatch.context() as full:
                full.setattr(it.memory, "_path", tmp_path / "nowhere" / "manifests.json")
                it.follower.want(payload(second, 2))
                await it.becomes("2", "refused", "1")
                await until(lambda: it.follower.refused["not stored"] > 1, "another try")
            await it.becomes("2", "active", "2")

    asyncio.run(story())


def test_a_last_good_version_that_has_decayed_is_fetched_again(tmp_path, models):
    first = good(models)

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
        path = tmp_path / "models-store" / first.variants[0].content.sha256
        damaged = bytearray(path.read_bytes())
        damaged[100] ^= 1
        path.write_bytes(damaged)
        async with followed(tmp_path, models) as it:
            with_neighbours(it, DENSE)
            status = await it.becomes("1", "active", "1")
            assert status.refused == {"decayed": 1}
            assert path.read_bytes() == DENSE

    asyncio.run(story())


@asynccontextmanager
async def beginning_late(tmp_path, models, monkeypatch):
    """Its file has decayed, the version that stands is known to be bad, and a neighbour comes back after that.

    A follower, and what has the neighbour come back.
    """
    monkeypatch.setattr(follower_module, "BEGIN_S", 0.2)
    first, second = good(models), package(models, "2", OTHER, DENSE)
    stands = payload(second, 2)
    async with followed(tmp_path, models) as it:
        await begin(it, first)
        it.follower.want(stands)
        await it.becomes("2", "failed", "1")
    path = tmp_path / "models-store" / first.variants[0].content.sha256
    path.write_bytes(bytes(len(DENSE)))
    shutil.rmtree(models / "occupancy-1")
    async with followed(tmp_path, models) as it:
        back = asyncio.Event()

        async def fetch(content):
            if not it.store.holds(content.sha256):
                await back.wait()
                await asyncio.to_thread(it.store.add, DENSE, content.chunk_bytes)

        it.neighbours.fetch = fetch
        it.follower.want(stands)
        assert (await it.becomes("2", "failed", None)).refused["decayed"] == 1
        yield it, back.set


def test_a_last_good_version_whose_bytes_come_late_runs_then(tmp_path, models, monkeypatch):
    async def story():
        async with beginning_late(tmp_path, models, monkeypatch) as (it, come_back):
            come_back()
            await it.becomes("2", "failed", "1")
            await until(lambda: it.decided, "a decision")

    asyncio.run(story())


def test_a_last_good_version_whose_bytes_come_late_and_do_not_load_is_tried_once(
    tmp_path, models, monkeypatch
):
    third = good(models, "3", DENSE + b"-")

    async def rejects(*_):
        raise ModelRejected("as the test says")

    async def story():
        async with beginning_late(tmp_path, models, monkeypatch) as (it, come_back):
            with monkeypatch.context() as patch:
                patch.setattr(it.client, "prepare", rejects)
                come_back()
                await until(lambda: ("1", "waiting") in it.states, "that it does not load")
                await it.becomes("2", "failed", None)
            it.follower.want(payload(third, 3))
            await it.becomes("3", "active", "3")
            assert it.states.count(("1", "waiting")) == 1

    asyncio.run(story())


def test_a_last_good_version_for_which_there_is_no_worker_is_tried_again(
    tmp_path, models, monkeypatch
):
    monkeypatch.setattr(attempts, "TRY_AGAIN_S", 0.05)
    monkeypatch.setattr(StandbyClient, "prepare", prepare := Refusing(StandbyClient.prepare))

    async def story():
        async with beginning_late(tmp_path, models, monkeypatch) as (it, come_back):
            prepare.times = 3
            come_back()
            await it.becomes("2", "failed", "1")
            assert prepare.times == 0

    asyncio.run(story())


class Refusing:
    """A step that meets a lost worker so many times first."""

    def __init__(self, step):
        self.times = 0
        self._step = step

    def __get__(self, client, _):
        return partial(self, client)

    async def __call__(self, *arguments):
        if self.times:
            self.times -= 1
            raise WorkerLost("as the test says")
        return await self._step(*arguments)


def with_neighbours(it, data):
    """Neighbours who have these bytes."""

    async def fetch(content):
        if not it.store.holds(content.sha256):
            await asyncio.to_thread(it.store.add, data, content.chunk_bytes)

    it.neighbours.fetch = fetch


def test_a_disk_that_fills_half_way_leaves_what_runs(tmp_path, models, monkeypatch):
    first = good(models)
    large = os.urandom(400_000)
    variants = (Variant(kind=Kind.TFLITE, content=content_of(large)),)
    second = msgspec.structs.replace(first, version="2", variants=variants)
    written = []
    write = Partial.write

    def full(partial, index, data):
        written.append(index)
        if len(written) > 6:
            raise DiskFailed(os.strerror(errno.ENOSPC))
        write(partial, index, data)

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
            with_neighbours(it, large)
            monkeypatch.setattr(Partial, "write", full)
            await refused(it, payload(second, 2), "disk", "missing")
            assert len(written) == 7

    asyncio.run(story())
