"""Versions that come into use, that do not, and that are taken back; real workers, without a mesh."""

import asyncio
import errno
import os
import time

import msgspec
import pytest

from agent.infer import wire
from agent.infer.kinds import Kind
from agent.infer.limits import Limits
from agent.models import follower as follower_module
from agent.models import running as running_module
from agent.models.content import content_of
from agent.models.errors import ContentDamaged, DiskFailed, StoreFull, TooLarge
from agent.models.follower import BOOTS_MAX, Fleet
from agent.models.manifest import Rollout, Variant, encode_manifest, publishable
from agent.models.partial import Partial
from agent.models.rollout import SETTLE_NS
from broker.identity import DAY_MS, Role
from broker.model_key import ModelKey
from broker.model_trust import ModelTrust
from tests.identity.fleet import T_MS
from tests.identity.fleet import Fleet as TrustedFleet
from tests.models.follow import (
    DENSE,
    OTHER,
    SITE,
    TOPIC,
    WIDE,
    followed,
    good,
    ill,
    make_ill,
    package,
    payload,
    until,
)

pytestmark = pytest.mark.timeout(120)

WATCHED = Rollout(health_window_s=600, error_share_max=0.0)
SHORT = Rollout(health_window_s=0.6)


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    good(folder)
    return folder


@pytest.fixture
def illness(tmp_path, monkeypatch):
    folder = tmp_path / "ill"
    folder.mkdir()
    make_ill(monkeypatch, folder)
    return folder


async def begin(it, draft, counter=1):
    """Version 1 runs, and decides."""
    it.follower.want(payload(draft, counter))
    await it.becomes("1", "active")
    await until(lambda: it.decided, "a decision")


def workers(it):
    return [client.statistics().worker_pid for client in it.client._clients]


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


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("crash at load", "does not load"),
        ("hang at load", "does not load"),
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
            await begin(it, first)
            it.follower.want(payload(second, 2))
            await it.becomes("2", "watched", "2")
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
            await begin(it, first)
            it.follower.want(payload(second, 2))
            await it.becomes("2", "watched")
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
            await begin(it, first)
            it.follower.want(payload(second, 2))
            await it.becomes("2", "watched")
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
                it.follower._trying = None  # as if it were killed
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
            await begin(it, first)
            it.follower.want(payload(second, 2))
            await it.becomes("2", "watched")
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


def test_a_manifest_that_is_refused_does_not_stop_one_that_is_on_its_way(tmp_path, models):
    first = good(models)
    second = good(models, "2", OTHER, rollout=Rollout(canary_share=0.5))

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
            it.follower.want(payload(second, 3))
            await it.becomes("2", "waiting", "1")
            it.follower.want(payload(first, 2))
            await until(lambda: it.follower.refused["lower counter"], "a refusal")
            assert it.status.state == "waiting"
            await it.becomes("2", "active", "2")

    asyncio.run(story())


def test_who_waits_for_canaries_and_hears_of_harm_holds_until_something_newer(
    tmp_path, models, monkeypatch
):
    monkeypatch.setattr(follower_module, "LOOK_S", 0.02)
    monkeypatch.setattr(follower_module, "TELL_S", 0.02)
    first = good(models)
    second = good(models, "2", OTHER, rollout=Rollout(canary_share=0.01))

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
            it.follower.want(payload(second, 2))
            waiting = await it.becomes("2", "waiting", "1")
            # A canary at work: whoever tries it already is one.
            watched = msgspec.structs.replace(waiting, state="watched")
            it.fleet = Fleet({"other"}, {"other": watched})
            began_s = time.monotonic()
            await until(lambda: "other" in it.status.reason, "it waits for the canary")
            assert time.monotonic() - began_s < SETTLE_NS / 1e9 + 30
            bad = msgspec.structs.replace(waiting, state="rolled-back", reason="slow: as a test")
            it.fleet = Fleet({"other"}, {"other": bad})
            held = await it.becomes("2", "held", "1")
            assert held.reason == "other did not keep it: slow: as a test"
            it.follower.want(payload(good(models, "3", OTHER), 3))
            await it.becomes("3", "active", "3")

    asyncio.run(story())


def test_who_waits_for_canaries_goes_when_they_are_healthy(tmp_path, models, monkeypatch):
    monkeypatch.setattr(follower_module, "LOOK_S", 0.02)
    monkeypatch.setattr(follower_module, "TELL_S", 0.02)
    first = good(models)
    second = good(models, "2", OTHER, rollout=Rollout(canary_share=0.01))

    async def story():
        async with followed(tmp_path, models) as it:
            await begin(it, first)
            it.follower.want(payload(second, 2))
            waiting = await it.becomes("2", "waiting", "1")
            watched = msgspec.structs.replace(waiting, state="watched")
            it.fleet = Fleet({"other"}, {"other": watched})
            await until(lambda: "other" in it.status.reason, "it waits for the canary")
            healthy = msgspec.structs.replace(waiting, state="active", reason="")
            it.fleet = Fleet({"other"}, {"other": healthy})
            await it.becomes("2", "active", "2")

    asyncio.run(story())


# What cannot be taken up, one row each; what runs goes on deciding.


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
    fleet = TrustedFleet(tmp_path / "fleet")
    fleet.join("desk", Role.OPERATOR)
    key = ModelKey(fleet.directory / "desk", T_MS)
    authority = (fleet.directory / "ca" / "ca.pem").read_bytes()
    first, other = good(models), good(models, "2", OTHER)

    def signed(draft, counter):
        made = {"counter": counter, "made_ms": T_MS, "expires_ms": T_MS + 300 * DAY_MS}
        return key.sign(encode_manifest(publishable(draft, site=SITE, **made)))

    async def story():
        trust = ModelTrust("town", authority, set)
        async with followed(tmp_path, models, trust=trust, now_ms=T_MS) as it:
            it.follower.want(signed(first, 1))
            await it.becomes("1", "active")
            await until(lambda: it.decided, "a decision")
            seal = signed(other, 2)
            at = seal.index(b'"signature":"') + 20
            forged = seal[:at] + (b"A" if seal[at : at + 1] != b"A" else b"B") + seal[at + 1 :]
            await refused(it, forged, "wrong signature")
            await refused(it, payload(other, 2), "unsigned")
            it.follower.want(seal)
            await it.becomes("2", "active", "2")

    asyncio.run(story())


def test_who_waits_takes_up_nothing_of_an_operator_who_was_revoked_meanwhile(
    tmp_path, models, monkeypatch
):
    monkeypatch.setattr(follower_module, "LOOK_S", 0.02)
    fleet = TrustedFleet(tmp_path / "fleet")
    fleet.join("desk", Role.OPERATOR)
    key = ModelKey(fleet.directory / "desk", T_MS)
    authority = (fleet.directory / "ca" / "ca.pem").read_bytes()
    revoked = set()
    trust = ModelTrust("town", authority, lambda: revoked)
    second = good(models, "2", OTHER, rollout=Rollout(canary_share=0.01))

    def signed(draft, counter):
        made = {"counter": counter, "made_ms": T_MS, "expires_ms": T_MS + 300 * DAY_MS}
        return key.sign(encode_manifest(publishable(draft, site=SITE, **made)))

    async def story():
        async with followed(tmp_path, models, trust=trust, now_ms=T_MS) as it:
            it.follower.want(signed(good(models), 1))
            await it.becomes("1", "active")
            wanted = signed(second, 2)
            it.follower.want(wanted)
            waiting = await it.becomes("2", "waiting", "1")
            watched = msgspec.structs.replace(waiting, state="watched")
            it.fleet = Fleet({"other"}, {"other": watched})
            revoked.add(trust.seal(TOPIC, wanted).serial)
            healthy = msgspec.structs.replace(waiting, state="active", reason="")
            it.fleet = Fleet({"other"}, {"other": healthy})
            await until(lambda: it.follower.refused["operator revoked"] == 1, "a refusal")
            assert it.follower.active.manifest.version == "1"
            assert it.client.statistics().models_loaded == 1

    asyncio.run(story())


def test_bytes_that_cannot_be_had_or_kept_are_told_by_reason_and_tried_again(
    tmp_path, models, monkeypatch
):
    monkeypatch.setattr(follower_module, "FETCH_AGAIN_S", 0.05)
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
            await it.becomes("1", "active", "1")
            assert path.read_bytes() == DENSE

    asyncio.run(story())


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


def test_a_version_that_there_is_no_room_to_load_is_tried_again(tmp_path, models, monkeypatch):
    monkeypatch.setattr(follower_module, "FETCH_AGAIN_S", 0.05)
    nameless_file, full = wire.nameless_file, [True]

    def once():
        if full:
            full.clear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return nameless_file()

    async def story():
        async with followed(tmp_path, models) as it:
            monkeypatch.setattr(wire, "nameless_file", once)  # the worker is there already
            it.follower.want(payload(good(models), 1))
            await it.becomes("1", "active", "1")
            assert ("1", "waiting") in it.states
            assert any("no room to hand it over" in status.reason for status in it.statuses)
            assert not it.follower.refused

    asyncio.run(story())
