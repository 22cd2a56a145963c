"""Versions in their health window: what proves itself, what is taken back, and to what; real workers, no mesh."""

import asyncio

import pytest

from agent.models import running as running_module
from agent.models.attempts import BOOTS_MAX
from agent.models.manifest import Rollout
from tests.models.follow import (
    OTHER,
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

WATCHED = Rollout(health_window_s=600, error_share_max=0.0)
SHORT = Rollout(health_window_s=0.6)


async def watch(it, first, second):
    """Version 1 has decided, and version 2 runs in its window."""
    await begin(it, first)
    it.follower.want(payload(second, 2))
    await it.becomes("2", "watched", "2")


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("fail", "inferences failed"),
        ("crash", ("worker lost", "inferences failed")),
        ("slow", "slow"),
    ],
)
def test_a_version_that_falls_ill_in_its_window_is_rolled_back(
    tmp_path, models, illness, flag, reason
):
    first = good(models)
    second = package(models, "2", ill("later"), OTHER, rollout=WATCHED)

    async def story():
        async with followed(tmp_path, models) as it:
            await watch(it, first, second)
            seen = len(it.decided)
            await until(lambda: len(it.decided) > seen + 40, "decisions by the new one")
            assert it.follower.version_of(it.decided[-1].model.sha256) == "2"
            assert len(workers(it)) == 2
            (illness / flag).touch()
            status = await it.becomes("2", "rolled-back", "1")
            assert status.reason.startswith(reason)
            assert sum(status.refused.values()) == 1
            # What the new one failed on the old one decided.
            assert it.lost() == (0, 0)
            seen = len(it.decided)
            await until(lambda: len(it.decided) > seen + 1, "decisions by the old one")
            assert it.follower.version_of(it.decided[-1].model.sha256) == "1"
            await until(lambda: len(workers(it)) == 1, "its worker ends")
            bad = it.follower._wanted
        (illness / flag).unlink()
        async with followed(tmp_path, models) as it:
            it.follower.want(bad)
            assert (await it.becomes("2", "rolled-back", "1")).reason == status.reason
            assert it.client.statistics().models_loaded == 1
            # Under a higher counter it is tried again.
            it.follower.want(payload(second, 3))
            await it.becomes("2", "watched", "2")

    asyncio.run(story())


def test_a_worker_that_is_lost_while_nothing_is_inferred_rolls_back(tmp_path, models):
    first = good(models)
    second = good(models, "2", OTHER, rollout=WATCHED)

    async def story():
        async with followed(tmp_path, models) as it:
            await watch(it, first, second)
            (serving,) = [c for c in it.client._clients if c is it.client._serving.client]
            serving._worker.kill("as the test says")
            status = await it.becomes("2", "rolled-back", "1")
            assert set(status.refused) <= {"worker lost", "inferences failed"}
            assert it.lost() == (0, 0)

    asyncio.run(story())


def test_the_first_version_of_all_is_taken_out_of_use_when_it_is_bad(tmp_path, models, illness):
    first = package(models, "2", ill("later"), OTHER, rollout=WATCHED)

    async def story():
        async with followed(tmp_path, models) as it:
            it.follower.want(payload(first, 1))
            await it.becomes("2", "watched")
            (illness / "fail").touch()
            await it.becomes("2", "rolled-back", None)
            assert it.follower.active is None
            assert it.client.in_use is None

    asyncio.run(story())


def test_slow_for_another_reason_is_not_held_against_it(tmp_path, models, illness, monkeypatch):
    """While the version before is as slow when it is measured again, the machine is."""
    measured = []

    async def slow_as_well(client, shape, count):
        measured.append(shape)
        return [90_000_000] * count

    monkeypatch.setattr(running_module, "inference_ns", slow_as_well)
    first = good(models)
    second = package(models, "2", ill("later"), OTHER, rollout=WATCHED)

    async def story():
        async with followed(tmp_path, models) as it:
            await watch(it, first, second)
            (illness / "slow").touch()
            await until(lambda: measured, "a measurement")
            seen = len(it.decided)
            await until(lambda: len(it.decided) > seen + 20, "decisions")
            assert it.status.state == "watched"

    asyncio.run(story())


def test_a_version_has_run_well_after_its_window_and_not_before(tmp_path, models):
    first, second = good(models), good(models, "2", OTHER, rollout=WATCHED)
    third = good(models, "3", OTHER, rollout=SHORT)

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
            wanted = payload(second, 2)
            it.follower.want(wanted)
            await it.becomes("2", "watched")
        async with followed(tmp_path, models) as it:
            await it.becomes("1", "active")
            it.follower.want(wanted)
            await it.becomes("2", "watched")
            # The same files under another manifest: nothing is loaded again.
            loaded = it.client.statistics().models_loaded
            it.follower.want(payload(third, 3))
            await it.becomes("3", "watched", "3")
            assert it.client.statistics().models_loaded == loaded
        async with followed(tmp_path, models) as it:
            it.follower.want(payload(third, 4))
            await it.becomes("3", "active", "3")
            assert it.lost() == (0, 0)
            await until(lambda: len(workers(it)) == 1, "the version before it ends")
        async with followed(tmp_path, models) as it:
            await it.becomes("3", "active", "3")

    asyncio.run(story())


def test_a_version_under_which_the_device_goes_down_again_and_again_is_given_up(tmp_path, models):
    first, second = good(models), good(models, "2", OTHER, rollout=WATCHED)
    wanted = payload(second, 2)

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
        for _ in range(BOOTS_MAX + 1):  # in good order: that does not count
            async with followed(tmp_path, models) as it:
                it.follower.want(wanted)
                await it.becomes("2", "watched")
        for _ in range(BOOTS_MAX):
            async with followed(tmp_path, models) as it:
                it.follower.want(wanted)
                await it.becomes("2", "watched")
                it.follower._attempts._begun = None  # as if it were killed
        for _ in range(2):
            async with followed(tmp_path, models) as it:
                it.follower.want(wanted)
                assert "went down 3 times" in (await it.becomes("2", "failed", "1")).reason

    asyncio.run(story())


def test_what_is_replaced_within_its_window_leaves_the_one_before_it_to_go_back_to(
    tmp_path, models, illness
):
    first, second = good(models), good(models, "2", OTHER, rollout=WATCHED)
    third = package(models, "3", ill("later"), OTHER, rollout=WATCHED)

    async def story():
        async with followed(tmp_path, models) as it:
            await watch(it, first, second)
            it.follower.want(payload(third, 3))
            await it.becomes("3", "watched", "3")
            await until(lambda: len(workers(it)) == 2, "the second one's worker ends")
            (illness / "fail").touch()
            await it.becomes("3", "rolled-back", "1")
            assert it.lost() == (0, 0)

    asyncio.run(story())


def test_an_operators_rollback_after_one_by_itself(tmp_path, models, illness):
    """The old content under a higher counter: taken up at once, nothing is loaded; then a better version."""
    first = good(models)
    second = package(models, "2", ill("later"), OTHER, rollout=WATCHED)

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first, 5)
            it.follower.want(payload(second, 6))
            await it.becomes("2", "watched")
            (illness / "crash").touch()
            await it.becomes("2", "rolled-back", "1")
            # The floor stays where it was.
            it.follower.want(payload(first, 5))
            await until(lambda: it.follower.refused["lower counter"], "a refusal")
            loaded = it.client.statistics().models_loaded
            it.follower.want(payload(first, 7))
            await it.becomes("1", "active", "1")
            assert it.client.statistics().models_loaded == loaded
            it.follower.want(payload(good(models, "3", OTHER, rollout=SHORT), 8))
            await it.becomes("3", "active", "3")
            assert it.lost() == (0, 0)

    asyncio.run(story())
