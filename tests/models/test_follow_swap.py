"""Versions that are tried, and that come into use or do not; real workers, without a mesh."""

import asyncio
import errno
import os
import threading

import pytest

from agent.infer import wire
from agent.infer.limits import Limits
from agent.models import attempts
from agent.models.surroundings import Fleet
from tests.models.follow import (
    DENSE,
    OTHER,
    WIDE,
    begin,
    followed,
    good,
    ill,
    package,
    payload,
    until,
    workers,
)

pytestmark = pytest.mark.timeout(120)


def test_versions_follow_each_other_without_losing_a_reading(tmp_path, models):
    first = good(models)
    drafts = [good(models, str(n), (OTHER, DENSE)[n % 2]) for n in range(2, 8)]

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
            for counter, draft in enumerate(drafts, 2):
                it.follower.want(payload(draft, counter))
                await it.becomes(draft.version, "active", draft.version)
                decided = len(it.decided)
                await until(lambda d=decided: len(it.decided) > d + 1, "a decision by it")
                assert it.follower.version_of(it.decided[-1].model.sha256) == draft.version
            assert it.lost() == (0, 0)
            await until(lambda: len(workers(it)) == 1, "the workers of earlier versions end")
            assert it.client.statistics().workers_lost == 0
            assert it.client.statistics().models_loaded == 7

    asyncio.run(story())


def test_a_version_that_replaces_another_waits_for_its_moment_where_others_are_alive(
    tmp_path, models, monkeypatch
):
    first, second, third = good(models), good(models, "2", OTHER), good(models, "3")
    drawn = []

    class AtOnce:
        def uniform(self, low, high):
            drawn.append((low, high))
            return 0.0

    monkeypatch.setattr(attempts, "SystemRandom", AtOnce)

    async def story():
        async with followed(tmp_path, models) as it:
            it.fleet = Fleet({"other"}, {})
            await begin(it, first)
            assert drawn == []
            it.follower.want(payload(second, 2))
            await it.becomes("2", "active", "2")
            assert drawn == [(0.0, attempts.SPREAD_S)]
            it.fleet = Fleet(frozenset(), {})
            it.follower.want(payload(third, 3))
            await it.becomes("3", "active", "3")
            assert len(drawn) == 1

    asyncio.run(story())


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("crash at load", "does not load"),
        ("hang at load", "does not load"),
        ("lies at load", "does not load"),
        ("lies of its time", "trial failed"),
        ("crash at sample", "trial failed"),
        ("hang at sample", "trial failed"),
        ("slow", "slow"),
        ("truncated", "does not load"),
        ("sample differs", "sample"),
        ("gives another shape", "wrong shape"),
        ("features do not fit", "wrong shape"),
    ],
)
def test_a_version_that_fails_its_trial_never_runs(tmp_path, models, illness, what, reason):
    first = good(models)
    match what:
        case "truncated":
            second = package(models, "2", OTHER[:-40], OTHER)
        case "sample differs":
            second = package(models, "2", OTHER, DENSE)
        case "gives another shape":
            second = package(models, "2", WIDE, OTHER)
        case "features do not fit":
            second = good(models, "2", WIDE)
        case _:
            second = package(models, "2", ill(what), OTHER)
    limits = Limits(load_timeout_s=3, invoke_timeout_s=3)

    async def story():
        async with followed(tmp_path, models, limits=limits) as it:
            it.misfit = "they fill (1, 4)"
            await begin(it, first)
            pid = it.client.statistics().worker_pid
            it.follower.want(payload(second, 2))
            status = await it.becomes("2", "failed")
            assert status.reason.startswith(reason)
            assert status.refused == {reason: 1}
            assert status.running == "1"
            decided = len(it.decided)
            await until(lambda: len(it.decided) > decided + 9, "decisions")
            assert it.client.statistics().worker_pid == pid
            assert it.lost() == (0, 0)
            assert {it.follower.version_of(each.model.sha256) for each in it.decided} == {"1"}
            await until(lambda: workers(it) == [pid], "its worker ends")
            again = it.follower._wanted
        async with followed(tmp_path, models, limits=limits) as it:
            it.follower.want(again)
            assert (await it.becomes("2", "failed", "1")).reason == status.reason
            assert it.client.statistics().models_loaded == 1
            assert it.client.statistics().models_rejected == 0

    asyncio.run(story())


def test_a_version_that_there_is_no_room_to_load_is_tried_again(tmp_path, models, monkeypatch):
    monkeypatch.setattr(attempts, "ROOM_AGAIN_S", 0.05)
    nameless_file, files = wire.nameless_file, []

    def once():
        files.append(len(files))
        if len(files) == 2:  # the first is what the worker shares with its device
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return nameless_file()

    async def story():
        async with followed(tmp_path, models) as it:
            monkeypatch.setattr(wire, "nameless_file", once)
            it.follower.want(payload(good(models), 1))
            await it.becomes("1", "active", "1")
            assert ("1", "waiting") in it.states
            assert any("no room to hand it over" in status.reason for status in it.statuses)
            assert not it.follower.refused

    asyncio.run(story())


def test_on_a_slow_disk_what_runs_now_is_what_is_kept(tmp_path, models, monkeypatch):
    """The version before proved itself earlier, and that comes to be written down later."""
    first, second = good(models), good(models, "2", OTHER)
    third = good(models, "3", DENSE + b"-")
    go, asked, kept = threading.Event(), [], []

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
            await until(lambda: it.store.kept, "that it is kept")
            keep = it.store.keep

            def slow(versions):
                asked.append(versions)
                if len(asked) == 1:
                    go.wait(20)
                keep(versions)
                kept.append(versions)

            monkeypatch.setattr(it.store, "keep", slow)
            it.follower.want(payload(second, 2))
            await until(lambda: asked, "that it is to be kept")
            it.follower.want(payload(third, 3))
            await it.becomes("3", "active", "3")
            go.set()
            await until(lambda: len(kept) == 2, "that both are kept")
            assert third.variants[0].content.sha256 in it.store.kept[0]

    try:
        asyncio.run(story())
    finally:
        go.set()
