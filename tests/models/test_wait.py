"""Waiting for devices that run a version: until they do, until it is clear that they will not, or for so long."""

import asyncio

import msgspec
import pytest

from agent.commands import model_wait
from agent.commands.model_fleet import tell
from agent.commands.model_wait import wait_for
from agent.errors import ModelUnusable
from agent.messages import ModelStatus
from tests.models.devices import one
from tests.models.follow import TOPIC, good, payload

STATUS = msgspec.json.encode(
    ModelStatus(
        name="occupancy", version="1", manifest="0" * 64, sha256="0" * 64, state="active", reason="", running="1",
        refused={}, at_ms=1,
    )
)  # fmt: skip
"""Of a topic that names no device."""


def story(tmp_path, devices, wait_s, *, off_by=0.0):
    """Publish a version that the only device has in its folder, and wait."""

    async def told():
        models = tmp_path / "models"
        draft = good(models)
        expected = tuple(value + off_by for value in draft.sample.expected)
        sample = msgspec.structs.replace(draft.sample, expected=expected)
        async with one(tmp_path, models=models) as (_, at):
            await tell(at, f"flock/v1/NOWHERE/model-status/{draft.name}/{draft.name}", STATUS)
            await tell(at, TOPIC, payload(msgspec.structs.replace(draft, sample=sample), 1))
            return await wait_for(at, "occupancy", devices, wait_s)

    return asyncio.run(told())


def test_as_soon_as_so_many_run_it(tmp_path):
    assert story(tmp_path, 1, 30) == 1


def test_too_few_in_that_time(tmp_path):
    with pytest.raises(
        ModelUnusable, match=r"version 1 of occupancy stands, and \d of 2 devices run it"
    ):
        story(tmp_path, 2, 0.7)


def test_a_version_that_does_not_run_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(model_wait, "GIVE_UP_S", 0.2)
    with pytest.raises(ModelUnusable, match=r"0 of 1 devices run it; a: 1 failed ."):
        story(tmp_path, 1, 50, off_by=9.0)
