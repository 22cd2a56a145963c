"""Devices that follow a version: one has its files, the other fetches them, and both begin with it after a restart."""

import asyncio

import msgspec

from agent.infer.kinds import Kind
from agent.models.bases import make_deltas, with_deltas
from agent.models.content import content_of
from agent.models.manifest import Variant
from agent.models.package import read_package, write_package
from tests.models.devices import one, pair, running, state
from tests.models.follow import OTHER, good, payload
from tests.waiting import until


def test_who_lacks_a_version_fetches_it_and_a_refused_one_changes_nothing(tmp_path):
    models = tmp_path / "models"
    drafts = [good(models), good(models, "2", OTHER)]
    lost = (Variant(kind=Kind.TFLITE, content=content_of(b"nobody has this")),)

    async def story():
        async with pair(tmp_path, models) as (a, b):
            for counter, draft in ((5, drafts[0]), (6, drafts[1])):
                await a.publish_model(payload(draft, counter))
                for each in (a, b):
                    await until(running(each, draft.version), f"version {draft.version}")
            assert list((tmp_path / "b" / "models").glob("*.part")) == []

            await a.publish_model(payload(drafts[0], 7, life_ms=-500))
            for each in (a, b):
                await until(lambda each=each: state(each)["state"] == "refused", "a refusal")
                assert state(each)["refused"] == {"expired": 1}
                assert state(each)["version"] == "2"

            # What nobody has is waited for, and given up for what there is.
            await a.publish_model(payload(msgspec.structs.replace(drafts[0], variants=lost), 8))
            await until(lambda: state(b)["state"] == "missing", "what nobody has")
            assert state(b)["version"] == "2"
            await a.publish_model(payload(drafts[0], 9))
            for each in (a, b):
                await until(running(each, "1"), "version 1")

        async with one(tmp_path, "b") as (alone, _):
            await until(running(alone, "1"), "the last good version, alone")

    asyncio.run(story())


def test_who_has_the_version_before_fetches_the_difference(tmp_path):
    models = tmp_path / "models"
    first, second = good(models), good(models, "2", OTHER)
    contents = {Kind.TFLITE: OTHER}
    base = read_package(models / "occupancy-1")
    second, deltas = with_deltas(second, make_deltas(second, contents, [base]))
    write_package(models / "occupancy-2", second, contents, deltas)

    async def story():
        async with pair(tmp_path, models) as (a, b):
            for counter, draft in enumerate((first, second), 1):
                await a.publish_model(payload(draft, counter))
                await until(running(b, draft.version), f"version {draft.version}")
            saved = len(contents[Kind.TFLITE]) - second.deltas[0].content.size_bytes
            told = b.report()["content"]["deltas"]
            assert (told["applied"], told["saved_bytes"], told["failed"]) == (1, saved, {})

    asyncio.run(story())


def test_without_identities_nothing_is_taken_unless_the_device_was_told_to(tmp_path):
    models = tmp_path / "models"
    draft = good(models)

    async def story():
        async with one(tmp_path, models=models, unsigned=False) as (a, _):
            await a.publish_model(payload(draft, 1))
            await until(lambda: state(a), "a refusal")
            assert state(a)["refused"] == {"unsigned": 1}
            assert "unsigned = true in [model]" in state(a)["last_refused"]
            assert state(a)["version"] is None

    asyncio.run(story())
