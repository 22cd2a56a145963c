"""Devices that wait for others to try a version first; real workers, without a mesh."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from agent.models import canaries
from agent.models.manifest import Rollout
from agent.models.surroundings import Fleet
from tests.identity.fleet import T_MS
from tests.models.follow import OTHER, TOPIC, Desk, begin, followed, good, payload, until

pytestmark = pytest.mark.timeout(120)

CAREFUL = Rollout(canary_share=0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """It looks, and says for whom it waits, at once."""
    monkeypatch.setattr(canaries, "LOOK_S", 0.02)
    monkeypatch.setattr(canaries, "TELL_S", 0.02)


def other_says(it, state, reason=""):
    """Another device, which is alive, says that of the manifest that this one spoke of last."""
    status = msgspec.structs.replace(it.status, state=state, reason=reason)
    it.fleet = Fleet({"other"}, {"other": status})


async def waits(it, wanted):
    """Version 2 stands on the topic, and another device is its canary: whoever tries it already is one."""
    it.follower.want(wanted)
    await it.becomes("2", "waiting", "1")
    other_says(it, "watched")
    await until(lambda: "other" in it.status.reason, "it waits for the canary")
    assert (it.status.state, it.status.running) == ("waiting", "1")


@asynccontextmanager
async def waiting(tmp_path, models):
    """A follower that decides by version 1, and waits for the canary of version 2."""
    first, second = good(models), good(models, "2", OTHER, rollout=CAREFUL)
    async with followed(tmp_path, models) as it:
        await begin(it, first)
        await waits(it, payload(second, 2))
        yield it


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


def test_who_waits_for_canaries_and_hears_of_harm_holds_until_something_newer(tmp_path, models):

    async def story():
        async with waiting(tmp_path, models) as it:
            other_says(it, "rolled-back", "slow: as a test")
            held = await it.becomes("2", "held", "1")
            assert held.reason == "other did not keep it: slow: as a test"
            it.follower.want(payload(good(models, "3", OTHER), 3))
            await it.becomes("3", "active", "3")

    asyncio.run(story())


def test_who_waits_for_canaries_goes_when_they_are_healthy(tmp_path, models):

    async def story():
        async with waiting(tmp_path, models) as it:
            other_says(it, "active")
            await it.becomes("2", "active", "2")

    asyncio.run(story())


def test_who_waits_takes_up_nothing_of_an_operator_who_was_revoked_meanwhile(tmp_path, models):
    desk = Desk(tmp_path / "fleet")
    second = good(models, "2", OTHER, rollout=CAREFUL)

    async def story():
        async with followed(tmp_path, models, trust=desk.trust, now_ms=T_MS) as it:
            it.follower.want(desk.signed(good(models), 1))
            await it.becomes("1", "active")
            wanted = desk.signed(second, 2)
            await waits(it, wanted)
            desk.revoked.add(desk.trust.seal(TOPIC, wanted).serial)
            other_says(it, "active")
            await until(lambda: it.follower.refused["operator revoked"] == 1, "a refusal")
            assert it.follower.active.manifest.version == "1"
            assert it.client.statistics().models_loaded == 1

    asyncio.run(story())
