"""Content on a device's disk: any order, any death, any decay, a limit, and a full disk."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from agent.models.content import content_of
from agent.models.errors import (
    ContentDamaged,
    ContentMissing,
    DiskFailed,
    StoreFull,
    TooLarge,
)
from agent.models.partial import Partial
from agent.models.store import ContentStore

DATA = Random(1).randbytes(500_001)
CONTENT = content_of(DATA)
KIB = 1024


def piece(data, content, index):
    begin, length = content.span(index)
    return data[begin : begin + length]


def fill(partial, indices, data=DATA):
    for index in indices:
        partial.write(index, piece(data, partial.content, index))


def put(store, seed, size_bytes=100 * KIB):
    return store.add(Random(seed).randbytes(size_bytes)).sha256


def test_chunks_come_in_any_order_and_nothing_is_seen_before_all_are_there(tmp_path):
    store = ContentStore(tmp_path)
    partial = store.open(CONTENT)
    order = list(range(CONTENT.count))
    Random(2).shuffle(order)
    fill(partial, order[:-1])
    assert not partial.whole
    assert not store.holds(CONTENT.sha256)
    assert store.content(CONTENT.sha256) is None
    with pytest.raises(ContentMissing):
        store.read(CONTENT.sha256)
    assert partial.read(order[0]) == piece(DATA, CONTENT, order[0])
    assert partial.read(order[-1]) is None
    fill(partial, order[-1:])
    store.finish(partial)
    store.leave(partial)
    assert store.read(CONTENT.sha256) == DATA
    assert store.content(CONTENT.sha256) == CONTENT
    assert [store.chunk(CONTENT.sha256, i) for i in range(CONTENT.count)] == [
        piece(DATA, CONTENT, i) for i in range(CONTENT.count)
    ]
    assert store.chunk(CONTENT.sha256, CONTENT.count) is None
    assert store.chunk(CONTENT.sha256, -1) is None


def test_what_was_there_is_there_after_a_restart(tmp_path):
    store = ContentStore(tmp_path)
    whole = put(store, 3)
    partial = store.open(CONTENT)
    fill(partial, [1, 5])
    partial.close()
    again = ContentStore(tmp_path)
    assert again.holds(whole)
    assert again.content(whole) == store.content(whole)
    assert again.statistics()[:2] == (1, 1)
    assert again.open(CONTENT).have == 1 << 1 | 1 << 5


WRITER = """
import os, sys
from pathlib import Path
from random import Random
from agent.models.content import content_of
from agent.models.partial import Partial
from agent.models.store import ContentStore
data = Random(1).randbytes(500_001)
content = content_of(data)
partial = ContentStore(Path(sys.argv[1])).open(content)
for index in range(content.count):
    begin, length = content.span(index)
    partial.write(index, data[begin : begin + length])
    os.write(1, b"%d\\n" % index)
    sys.stdin.readline()
"""


def test_a_kill_loses_nothing_that_was_written(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as writer:
        for index in range(5):
            assert writer.stdout.readline() == b"%d\n" % index
            if index < 4:
                writer.stdin.write(b"\n")
                writer.stdin.flush()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert ContentStore(tmp_path).open(CONTENT).have == 0b11111


def test_what_two_threads_add_at_once_is_written_once(tmp_path):
    """As where an operator hands over what this device just copies out of its folder."""
    both = threading.Barrier(2)

    class Slow(ContentStore):
        def open(self, content):
            partial = super().open(content)
            with contextlib.suppress(threading.BrokenBarrierError):  # one alone goes on
                both.wait(0.2)
            return partial

    store = Slow(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        added = list(threads.map(store.add, [DATA, DATA]))
    assert added == [content_of(DATA)] * 2
    assert store.read(added[0].sha256) == DATA


def meet_damage(store, name, how):
    """Find out, by that way, that the bytes are not what they were."""
    if how == "read":
        with pytest.raises(ContentDamaged):
            store.read(name)
    else:
        assert store.chunk(name, 2) is None
    assert not store.holds(name)


def test_bytes_that_decay_are_found_and_only_their_chunk_is_missing(tmp_path):
    store = ContentStore(tmp_path)
    name = store.add(DATA).sha256
    for how in ("read", "chunk"):
        with (tmp_path / name).open("r+b") as file:
            file.seek(2 * CONTENT.chunk_bytes + 7)
            file.write(b"decay")
        meet_damage(store, name, how)
        partial = store.open(CONTENT)
        assert partial.have == (1 << CONTENT.count) - 1 & ~(1 << 2)
        fill(partial, [2])
        store.finish(partial)
        store.leave(partial)
        assert store.read(name) == DATA
    assert store.statistics().damaged == 2


@pytest.mark.parametrize("how", ["read", "chunk"])
def test_bytes_that_somebody_has_deleted_are_missing(tmp_path, how):
    store = ContentStore(tmp_path)
    name = store.add(DATA).sha256
    (tmp_path / name).unlink()
    meet_damage(store, name, how)
    store.add(DATA)
    assert store.read(name) == DATA


def test_bytes_that_decay_while_nothing_can_be_renamed_lose_no_good_chunk(tmp_path, monkeypatch):
    store = ContentStore(tmp_path)
    name = store.add(DATA).sha256
    with (tmp_path / name).open("r+b") as file:
        file.write(b"decay")

    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    assert store.chunk(name, 0) is None
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(DiskFailed):
            store.open(CONTENT)
    partial = store.open(CONTENT)
    assert partial.have == (1 << CONTENT.count) - 1 & ~1
    store.leave(partial)


def test_a_partial_file_that_decays_is_served_no_more(tmp_path):
    partial = ContentStore(tmp_path).open(CONTENT)
    fill(partial, range(4))
    with partial.path.open("r+b") as file:
        file.write(b"decay")
    assert partial.read(0) is None
    assert partial.have == 0b1110


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"\xff\xfe", b'{"sha256": 3}', b'{"x":' + b"[" * 5_000]
)
def test_damaged_notes_beside_good_content_cost_no_content(tmp_path, junk):
    store = ContentStore(tmp_path)
    name = store.add(DATA).sha256
    store.keep([[name]])
    (tmp_path / f"{name}.json").write_bytes(junk)
    (tmp_path / "kept").write_bytes(junk)
    (tmp_path / "something.else").write_bytes(junk)
    again = ContentStore(tmp_path)
    assert again.read(name) == DATA
    assert again.content(name) == CONTENT


def test_digests_that_contradict_each_other_leave_nothing_behind(tmp_path):
    store = ContentStore(tmp_path)
    other = content_of(Random(9).randbytes(500_001))
    lie = type(CONTENT)(other.sha256, CONTENT.size_bytes, CONTENT.chunk_bytes, CONTENT.chunks)
    partial = store.open(lie)
    fill(partial, range(CONTENT.count))
    with pytest.raises(ContentDamaged, match="contradicts itself"):
        store.finish(partial)
    store.leave(partial)
    assert list(tmp_path.iterdir()) == []


def test_the_limit_evicts_what_was_used_longest_ago_and_never_what_is_kept(tmp_path):
    store = ContentStore(tmp_path, limit_bytes=350 * KIB)
    good, old, used = (put(store, seed) for seed in (1, 2, 3))
    for age, name in enumerate((used, old, good)):
        os.utime(tmp_path / name, ns=(10**18 - age, 10**18 - age))
    store = ContentStore(tmp_path, limit_bytes=350 * KIB)
    store.keep([[good]])
    store.read(used)
    new = put(store, 4)
    assert [store.holds(name) for name in (good, old, used, new)] == [True, False, True, True]
    assert {path.name for path in tmp_path.iterdir()} == {
        "kept",
        *(f"{name}{suffix}" for name in (good, used, new) for suffix in ("", ".json")),
    }
    assert ContentStore(tmp_path).kept == ((good,),)
    assert store.statistics().evicted == 1


def test_what_cannot_fit_is_refused_before_anything_is_evicted_or_written(tmp_path):
    store = ContentStore(tmp_path, limit_bytes=250 * KIB)
    good, spare = put(store, 1), put(store, 2)
    store.keep([[good]])
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(TooLarge):
        store.open(CONTENT)
    with pytest.raises(StoreFull, match="raise the limit"):
        put(store, 3, 200 * KIB)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert store.holds(spare)


def test_what_is_being_filled_is_not_evicted(tmp_path):
    store = ContentStore(tmp_path, limit_bytes=600 * KIB)
    partial = store.open(CONTENT)
    fill(partial, [0])
    with pytest.raises(StoreFull):
        put(store, 1, 200 * KIB)
    store.leave(partial)
    put(store, 1, 200 * KIB)
    assert not partial.path.exists()


def _full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    store = ContentStore(tmp_path)
    name = put(store, 1)
    before = {path.name for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", _full)
        with pytest.raises(DiskFailed, match="No space left"):
            store.open(CONTENT)
    assert {path.name for path in tmp_path.iterdir()} == before
    assert store.holds(name)
    assert store.open(CONTENT).have == 0


@pytest.mark.parametrize("how", ["refused", "short"])
def test_a_disk_that_fills_up_half_way_keeps_what_it_took(tmp_path, monkeypatch, how):
    store = ContentStore(tmp_path)
    partial = store.open(CONTENT)
    fill(partial, range(3))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", _full if how == "refused" else lambda *_: 10)
        with pytest.raises(DiskFailed):
            fill(partial, [3])
    assert partial.have == 0b111
    store.leave(partial)
    assert ContentStore(tmp_path).open(CONTENT).have == 0b111


def test_a_sync_that_comes_after_the_end_does_nothing(tmp_path):
    """In a thread, on its way while the pull was given up."""
    partial = Partial(tmp_path / "x.part", content_of(b"x"))
    partial.close()
    partial.sync()


def test_a_disk_that_does_not_sync_makes_nothing_visible(tmp_path, monkeypatch):
    store = ContentStore(tmp_path)
    partial = store.open(CONTENT)
    fill(partial, range(CONTENT.count))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _full)
        with pytest.raises(DiskFailed):
            store.finish(partial)
    assert not store.holds(CONTENT.sha256)
    store.finish(partial)
    store.leave(partial)
    assert store.read(CONTENT.sha256) == DATA


def test_a_folder_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskFailed):
        ContentStore(tmp_path / "file" / "models")


def test_what_cannot_be_evicted_is_a_failure_of_the_disk(tmp_path):
    store = ContentStore(tmp_path, limit_bytes=250 * KIB)
    old = tmp_path / put(store, 1, 200 * KIB)
    old.unlink()
    old.mkdir()  # which no `unlink` takes away, as none does where the file system has become read-only
    with pytest.raises(DiskFailed):
        put(store, 2, 200 * KIB)
    old.rmdir()
    put(store, 2, 200 * KIB)
