"""Where a device has models from: folder, store or neighbours; what the store never gives up."""

import asyncio
import os
import threading
from random import Random

import pytest

from agent.infer.kinds import Kind
from agent.models.bases import make_deltas, with_deltas
from agent.models.content import content_of
from agent.models.library import Library
from agent.models.package import read_package, write_package
from agent.models.shipped import ModelFiles
from agent.models.store import ContentStore
from tests.models.members import Member
from tests.models.versions import NEW, changed, draft
from tests.node.fleet import graph
from tests.waiting import until

OLD = changed(500)


def library(directory, limit_bytes=10**8):
    """One without neighbours, and its store."""
    store = ContentStore(directory / "store", limit_bytes)
    return Library(ModelFiles(), store, None), store


def put(store, seed, size=100_000):
    name = store.add(Random(seed).randbytes(size)).sha256
    os.utime(store._directory / name, ns=(10**18 + seed, 10**18 + seed))
    return name


def test_both_files_of_the_version_that_runs_and_of_the_one_before_are_never_given_up(tmp_path):
    async def story():
        own, store = library(tmp_path, limit_bytes=550_000)
        first, second = (put(store, 1), put(store, 2)), (put(store, 3), put(store, 4))
        await own.runs(*first)
        await own.runs(*second)
        for seed in range(10, 20):
            put(ContentStore(tmp_path / "store", 550_000), seed)
        again, store = library(tmp_path, limit_bytes=550_000)
        assert all(store.holds(name) for name in (*first, *second))
        await again.runs(second[0])  # after a restart, and without the Edge TPU
        assert store.kept == (second, first)
        third = put(store, 30)
        await again.runs(third)
        assert store.kept == ((third,), second)
        put(store, 31)
        put(store, 32)
        assert [store.holds(name) for name in first] == [False, False]
        assert all(store.holds(name) for name in (third, *second))

    asyncio.run(story())


def test_an_edge_tpu_that_comes_later_adds_its_file_and_displaces_no_version(tmp_path):
    async def story():
        own, store = library(tmp_path)
        await own.runs("a" * 64)
        await own.runs("b" * 64)
        await own.runs("b" * 64, "c" * 64)
        assert store.kept == (("b" * 64, "c" * 64), ("a" * 64,))
        await own.runs("a" * 64)
        assert store.kept == (("a" * 64,), ("b" * 64, "c" * 64))

    asyncio.run(story())


def packages(directory, *, old=True):
    """A folder with a new version, its delta and perhaps the version before."""
    before, kinds = draft("1", tflite=OLD)
    write_package(directory / "before", before, kinds)
    made, kinds = draft("2", tflite=NEW)
    tried = make_deltas(made, kinds, [read_package(directory / "before")])
    made, deltas = with_deltas(made, tried)
    write_package(directory / "models" / "2", made, kinds, deltas)
    if old:
        (directory / "before").rename(directory / "models" / "1")
    return made, ModelFiles(str(directory / "models"))


@pytest.mark.parametrize("step", ["read", "keeps"])
def test_who_gives_up_while_the_folder_is_copied_waits_for_its_end(tmp_path, step):
    """Or two threads would write the same file."""
    made, files = packages(tmp_path)
    content = made.variant(Kind.TFLITE).content
    entered, released, add = threading.Event(), threading.Event(), ContentStore.add

    class Slow(ContentStore):
        def add(self, data, chunk_bytes=0):
            entered.set()
            assert released.wait(20)
            return add(self, data, chunk_bytes)

    async def story():
        store = Slow(tmp_path / "store")
        copying = getattr(Library(files, store, None), step)(content)
        task = asyncio.ensure_future(copying)
        await until(entered.is_set, "it is copied")
        task.cancel()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        released.set()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert store.holds(content.sha256)

    asyncio.run(story())


def test_deltas_of_the_folder_reach_neighbours_and_bases_of_the_folder_serve_them(tmp_path):
    """One has the version and its delta in its folder, the other only the version before in its own."""

    async def story():
        made, files = packages(tmp_path, old=False)
        (tmp_path / "b").mkdir()
        (tmp_path / "before").rename(tmp_path / "b" / "1")
        content = made.variant(Kind.TFLITE).content
        async with graph(tmp_path / "nodes", ["ab"]) as nodes:
            a, b = (Member(nodes[name], tmp_path / "nodes") for name in "ab")
            publisher = Library(files, a.store, a.transfers)
            assert await publisher.read(content, made.deltas) == NEW
            other = Library(ModelFiles(str(tmp_path / "b")), b.store, b.transfers)
            async with asyncio.timeout(30):
                assert await other.read(content, made.deltas) == NEW
            assert other.report()["deltas"]["applied"] == 1
            assert other.report()["fetching"] == {}
            assert content.sha256 not in a.transfers.uploaded
            assert b.store.holds(content_of(OLD).sha256)
            for each in (a, b):
                await each.transfers.close()
                await each.calls.close()

    asyncio.run(story())
