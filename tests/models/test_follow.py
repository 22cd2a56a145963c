"""Devices that follow a version: one has its files, the other fetches them, and both begin with it after a restart."""

import asyncio

import msgspec

from agent.config import NeighbourConfig
from agent.infer.kinds import Kind
from agent.models.bases import make_deltas, with_deltas
from agent.models.content import content_of
from agent.models.manifest import Variant
from agent.models.package import read_package, write_package
from tests.models.devices import DATA, device, package, running, state, unsigned
from tests.waiting import until


def test_who_lacks_a_version_fetches_it_and_a_refused_one_changes_nothing(tmp_path):
    models = tmp_path / "models"
    drafts = [package(models, "1", "dense.tflite"), package(models, "2", "dense_other.tflite")]
    lost = (Variant(kind=Kind.TFLITE, content=content_of(b"nobody has this")),)

    async def story():
        a = device(tmp_path, "a", models=models)
        await a.start()
        there = (NeighbourConfig(name="a", host="127.0.0.1", port=a.node.port),)
        b = device(tmp_path, "b", there)
        await b.start()
        for counter, draft in ((5, drafts[0]), (6, drafts[1])):
            await a.publish_model(unsigned(draft, counter))
            for each in (a, b):
                await until(running(each, draft.version), f"version {draft.version}")
        assert list((tmp_path / "b" / "models").glob("*.part")) == []

        await a.publish_model(unsigned(drafts[0], 7, life_ms=-500))
        for each in (a, b):
            await until(lambda each=each: state(each)["state"] == "refused", "a refusal")
            assert state(each)["refused"] == {"expired": 1}
            assert state(each)["version"] == "2"

        # What nobody has is waited for, and given up for what there is.
        await a.publish_model(unsigned(msgspec.structs.replace(drafts[0], variants=lost), 8))
        await until(lambda: state(b)["state"] == "missing", "what nobody has")
        assert state(b)["version"] == "2"
        await a.publish_model(unsigned(drafts[0], 9))
        for each in (a, b):
            await until(running(each, "1"), "version 1")
        await b.stop()
        await a.stop()

        alone = device(tmp_path, "b")
        await alone.start()
        await until(running(alone, "1"), "the last good version, alone")
        await alone.stop()

    asyncio.run(story())


def test_who_has_the_version_before_fetches_the_difference(tmp_path):
    models = tmp_path / "models"
    first, second = package(models, "1", "dense.tflite"), package(models, "2", "dense_other.tflite")
    contents = {Kind.TFLITE: (DATA / "dense_other.tflite").read_bytes()}
    base = read_package(models / "occupancy-1")
    second, deltas = with_deltas(second, make_deltas(second, contents, [base]))
    write_package(models / "occupancy-2", second, contents, deltas)

    async def story():
        a = device(tmp_path, "a", models=models)
        await a.start()
        there = (NeighbourConfig(name="a", host="127.0.0.1", port=a.node.port),)
        b = device(tmp_path, "b", there)
        await b.start()
        for counter, draft in enumerate((first, second), 1):
            await a.publish_model(unsigned(draft, counter))
            await until(running(b, draft.version), f"version {draft.version}")
        saved = len(contents[Kind.TFLITE]) - second.deltas[0].content.size_bytes
        told = b.report()["content"]["deltas"]
        assert (told["applied"], told["saved_bytes"], told["failed"]) == (1, saved, {})
        await b.stop()
        await a.stop()

    asyncio.run(story())


def test_without_identities_nothing_is_taken_unless_the_device_was_told_to(tmp_path):
    models = tmp_path / "models"
    draft = package(models, "1", "dense.tflite")

    async def story():
        a = device(tmp_path, "a", models=models, unsigned=False)
        await a.start()
        await a.publish_model(unsigned(draft, 1))
        await until(lambda: state(a), "a refusal")
        assert state(a)["refused"] == {"unsigned": 1}
        assert "unsigned = true in [model]" in state(a)["last_refused"]
        assert state(a)["version"] is None
        await a.stop()

    asyncio.run(story())
