"""Whole devices in one process, with workers of their own: canaries, those who wait, and those who hold."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from agent.config import NeighbourConfig
from agent.models import canaries
from agent.models.manifest import Rollout
from tests.models.devices import device
from tests.models.follow import DENSE, OTHER, good, package, payload, until

pytestmark = pytest.mark.timeout(180)

NAMES = ("a", "b", "c", "d")


@asynccontextmanager
async def fleet(tmp_path, models):
    """Four devices in a row, which know each other to be alive and run version 1; and all that they have said."""
    devices = []
    told = []

    def hear(batch):
        for message in batch:
            if "/model-status/" in message.topic and message.payload:
                status = msgspec.json.decode(message.payload)
                told.append((message.origin, status["version"], status["state"]))

    for name in NAMES:
        neighbours = tuple(
            NeighbourConfig(name=each.node.device, host="127.0.0.1", port=each.node.port)
            for each in devices[-1:]
        )
        devices.append(device(tmp_path, name, neighbours, models=models))
        await devices[-1].start()
    devices[0].node.subscribe(hear)
    try:
        for each in devices:
            await until(lambda e=each: sum(e.report()["peers"].values()) == 3, "all are alive")
        await devices[0].publish_model(payload(good(models), 1))
        for each in devices:
            await until(lambda e=each: state(e) == ("1", "active"), "version 1")
        yield devices, told
    finally:
        for each in devices:
            await each.stop()


def state(each):
    model = each.report()["models"].get("occupancy", {})
    return model.get("version"), model.get("state")


def test_canaries_go_first_and_the_rest_when_they_are_healthy(tmp_path, monkeypatch):
    monkeypatch.setattr(canaries, "LOOK_S", 0.05)
    models = tmp_path / "models"
    rollout = Rollout(canary_share=0.25, health_window_s=1.0)
    second = good(models, "2", OTHER, rollout=rollout)

    async def story():
        async with fleet(tmp_path, models) as (devices, told):
            await devices[2].publish_model(payload(second, 2))
            for each in devices:
                await until(lambda e=each: state(e) == ("2", "active"), "version 2")
            assert {name for name, *said in told if said == ["2", "waiting"]} == set(NAMES)
            at = [name for name, *said in told if said == ["2", "watched"]]
            proved = told.index((at[0], "2", "active"))
            others = [told.index((name, "2", "watched")) for name in at[1:]]
            assert len(at) == 4
            assert all(proved < began for began in others)

    asyncio.run(story())


def test_a_bad_version_stops_at_its_canaries_and_what_follows_it_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(canaries, "LOOK_S", 0.05)
    models = tmp_path / "models"
    rollout = Rollout(canary_share=0.25, health_window_s=1.0)
    second = package(models, "2", OTHER, DENSE, rollout=rollout)  # its sample is another's

    async def story():
        async with fleet(tmp_path, models) as (devices, told):
            await devices[1].publish_model(payload(second, 2))
            held = [("1", "held")] * 3
            await until(
                lambda: sorted(map(state, devices)) == [("1", "failed"), *held], "three hold it"
            )
            (canary,) = {name for name, *said in told if said == ["2", "failed"]}
            for each in devices:
                reason = each.report()["models"]["occupancy"]["reason"]
                assert reason.startswith(("sample: ", f"{canary} did not keep it: sample: "))
            # An operator's rollback frees all of them at once.
            await devices[3].publish_model(payload(good(models), 3))
            for each in devices:
                await until(lambda e=each: state(e) == ("1", "active"), "version 1")

    asyncio.run(story())
