"""What the store keeps, and what it does when it cannot."""

import errno
import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from broker.errors import StateInUse, StoreFailed
from broker.mesh.events import Changes, OwnBundle, RelayedBundle
from broker.mesh.retained import Entry
from broker.mesh_table import FIRST_INCARNATION_MAX
from broker.store import Store
from tests.power import Disk, FullDisk


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path)) as store:
        yield store


def reopened(store, tmp_path):
    store.close()
    return closing(Store(tmp_path))


def test_the_first_boot_has_no_memory(store):
    restored = store.boot()
    assert restored.first_boot
    assert 1 <= restored.incarnation <= FIRST_INCARNATION_MAX
    assert not (restored.own or restored.passed or restored.retained or restored.clock_bound)
    assert restored.known_since is None


def test_what_is_stored_is_for_this_user_only(store, tmp_path):
    store.boot()
    store.commit(Changes(clock_bound=1))
    store.checkpoint()
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert {"lock", "mesh.sqlite", "mesh.sqlite-wal"} < modes.keys()
    assert set(modes.values()) == {0o600}


def test_everything_committed_comes_back(tmp_path):
    store = Store(tmp_path)
    first = store.boot().incarnation
    own = OwnBundle(3, (1, 1), b"head", b"body")
    entry = Entry(2, 77, "a", b"value", 1)
    store.commit(
        Changes(
            clock_bound=99,
            known_since=7,
            own=[own],
            passed={("a", 3): (1, 1)},
            retained={"t": entry},
        )
    )
    with reopened(store, tmp_path) as again:
        restored = again.boot()
    assert restored.incarnation == first + 1
    assert not restored.first_boot
    assert restored.clock_bound == 99
    assert restored.known_since == 7
    assert restored.own == [own]
    assert restored.passed == {("a", 3): (1, 1)}
    assert restored.retained == {"t": entry}


def test_own_bundles_go_when_a_neighbour_holds_them(tmp_path):
    store = Store(tmp_path)
    store.boot()
    bundles = [OwnBundle(3, (1, n), b"h", b"b") for n in (1, 2, 3)]
    store.commit(Changes(own=bundles))
    store.commit(Changes(own_held={3: (1, 2), 5: (9, 9)}))
    with reopened(store, tmp_path) as again:
        assert again.boot().own == [bundles[2]]


def test_of_own_bundles_that_nobody_else_holds_as_many_are_kept_as_the_log_takes_up(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("broker.mesh_table.OWN_BYTES_MAX", 50_000)
    bundles = [OwnBundle(lane, (1, n), b"h", bytes(1000)) for n in range(1, 101) for lane in (3, 5)]
    with closing(Store(tmp_path)) as store:
        store.boot()
        for begin in range(0, len(bundles), 10):
            store.commit(Changes(own=bundles[begin : begin + 10]))
            store.checkpoint()
    with closing(Store(tmp_path)) as store:
        own = store.boot().own
    assert 50 <= len(own) <= 60
    assert sorted(own) == sorted(bundles[-len(own) :])


def test_a_raised_incarnation_replaces_own_bundles(tmp_path):
    store = Store(tmp_path)
    store.boot()
    store.commit(Changes(own=[OwnBundle(3, (1, 1), b"h", b"b")]))
    renumbered = OwnBundle(3, (8, 1), b"h8", b"b")
    store.commit(Changes(incarnation=8, own_replaced=True, own=[renumbered]))
    with reopened(store, tmp_path) as again:
        restored = again.boot()
    assert restored.own == [renumbered]
    assert restored.incarnation == 9


def test_a_purged_topic_is_forgotten(tmp_path):
    store = Store(tmp_path)
    store.boot()
    store.commit(Changes(retained={"t": Entry(0, 1, "a", b"", 1)}))
    store.commit(Changes(retained={"t": None}))
    with reopened(store, tmp_path) as again:
        assert again.boot().retained == {}


@pytest.mark.parametrize(
    "damage",
    [b"this is no database at all, not even nearly" * 30, b"SQLite format 3\0" + b"\xff" * 4096],
)
def test_a_damaged_file_is_put_aside_and_the_device_starts_without_memory(tmp_path, damage):
    (tmp_path / "mesh.sqlite").write_bytes(damage)
    with closing(Store(tmp_path)) as store:
        restored = store.boot()
        store.commit(Changes(clock_bound=5))
    assert restored.first_boot
    assert (tmp_path / "mesh.damaged").read_bytes() == damage


def test_a_file_of_another_version_is_put_aside(tmp_path):
    with closing(sqlite3.connect(tmp_path / "mesh.sqlite")) as database:
        database.execute("PRAGMA user_version = 99")
        database.commit()
    with closing(Store(tmp_path)) as store:
        assert store.boot().first_boot
    assert (tmp_path / "mesh.damaged").exists()


def test_a_directory_serves_one_process_at_a_time(store, tmp_path):
    with pytest.raises(StateInUse, match="in use by another"):
        Store(tmp_path)


def test_a_directory_that_is_a_file_is_said_so(tmp_path):
    path = tmp_path / "state"
    path.write_text("")
    with pytest.raises(StoreFailed, match="cannot be used"):
        Store(path)


@pytest.mark.parametrize("room", [0, 1, 7, 500])
def test_a_full_disk_stores_nothing_and_says_so(tmp_path, monkeypatch, room):
    disk = FullDisk(monkeypatch, tmp_path)
    store = Store(tmp_path)
    store.boot()
    store.commit(Changes(clock_bound=1))
    disk.room = room
    big = OwnBundle(3, (1, 1), b"h", bytes(1_000_000))
    with pytest.raises(StoreFailed, match="cannot be written: No space left on device"):
        store.commit(Changes(clock_bound=2, own=[big]))
    disk.room = None
    store.commit(Changes(known_since=5))
    with reopened(store, tmp_path) as again:
        restored = again.boot()
    assert restored.clock_bound == 1
    assert restored.known_since == 5
    assert restored.own == []


def test_half_a_record_that_cannot_be_taken_back_costs_no_later_one(tmp_path, monkeypatch):
    def refused(file, size_bytes):
        raise OSError(errno.EIO, f"{file} stays longer than {size_bytes}")

    disk = FullDisk(monkeypatch, tmp_path)
    with closing(Store(tmp_path)) as store:
        store.boot()
        store.commit(Changes(clock_bound=1))
        disk.room = 10
        with monkeypatch.context() as patch:
            patch.setattr("os.ftruncate", refused)
            with pytest.raises(StoreFailed):
                store.commit(Changes(clock_bound=2))
        disk.room = None
        store.commit(Changes(clock_bound=3))
    with closing(Store(tmp_path)) as store:
        assert store.boot().clock_bound == 3


def test_a_checkpoint_that_fails_loses_nothing(tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch, tmp_path)
    bundles = [OwnBundle(3, (1, n), b"h", bytes(100_000)) for n in range(1, 7)]
    with closing(Store(tmp_path)) as store:
        store.boot()
        store.commit(Changes(own=bundles[:2]))
        disk.room = 0
        with pytest.raises(StoreFailed, match="No space left on device"):
            store.checkpoint()  # there is no room for another journal
        disk.room = None
        store._database.execute("PRAGMA max_page_count = 1")
        store.commit(Changes(own=bundles[2:4]))
        for _ in range(2):
            with pytest.raises(StoreFailed, match=r"mesh.sqlite cannot be written"):
                store.checkpoint()
        store.commit(Changes(own=bundles[4:5], clock_bound=9))
    shutil.copytree(tmp_path, tmp_path / "killed")
    with closing(Store(tmp_path / "killed")) as store:
        assert store.boot().own == bundles[:5]
    with closing(Store(tmp_path)) as store:
        assert store.boot().own == bundles[:5]
        store.commit(Changes(own=bundles[5:]))
        store.checkpoint()
        assert len(journals(tmp_path)) == 1
    with closing(Store(tmp_path)) as store:
        restored = store.boot()
    assert restored.own == bundles
    assert restored.clock_bound == 9


def test_while_checkpoints_fail_the_journals_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("broker.store.JOURNAL_BYTES_MAX", 500_000)
    with closing(Store(tmp_path)) as store:
        store.boot()
        store._database.execute("PRAGMA max_page_count = 1")
        for sequence in range(1, 7):
            store.commit(Changes(own=[OwnBundle(3, (1, sequence), b"h", bytes(90_000))]))
            with pytest.raises(StoreFailed, match="cannot be written"):
                store.checkpoint()
        with pytest.raises(StoreFailed, match="is full"):
            store.commit(Changes(clock_bound=1))
        assert (
            len(journals(tmp_path)) == 2
        )  # each is a descriptor, and a checkpoint is tried every few seconds


def journals(directory):
    return sorted(directory.glob("mesh.journal.*"))


def test_what_neighbours_hold_by_then_never_reaches_the_database(tmp_path):
    with closing(Store(tmp_path)) as store:
        store.boot()
        for sequence in range(1, 101):
            store.commit(
                Changes(
                    own=[OwnBundle(3, (1, sequence), b"h", bytes(10_000))],
                    own_held={3: (1, sequence - 3)},
                )
            )
        store.checkpoint()
        assert len(store._pending.own) == 0
    assert sum(path.stat().st_size for path in tmp_path.glob("mesh.sqlite*")) < 200_000
    with closing(Store(tmp_path)) as store:
        assert [own.position for own in store.boot().own] == [(1, n) for n in (98, 99, 100)]


@pytest.mark.parametrize("folded", [False, True])
def test_a_journal_that_is_there_twice_counts_once(tmp_path, folded):
    """A kill between fold and deletion leaves a journal that the database has already."""
    with closing(Store(tmp_path)) as store:
        store.boot()
        store.commit(Changes(own=[OwnBundle(3, (1, 1), b"h", b"b")]))
        (left,) = journals(tmp_path)
        data = left.read_bytes()
        if folded:
            store.checkpoint()
            store.commit(Changes(own_held={3: (1, 1)}))
    left.write_bytes(data)
    with closing(Store(tmp_path)) as store:
        assert len(store.boot().own) == (0 if folded else 1)


def test_of_two_journals_the_second_counts_only_if_the_first_is_whole(tmp_path):
    with closing(Store(tmp_path)) as store:
        store.boot()
        store.commit(Changes(clock_bound=1))
        store.commit(Changes(clock_bound=2))
        store._begin_journal(store._journals[-1].number + 1)
        store.commit(Changes(clock_bound=3))
    first, _ = journals(tmp_path)
    for torn, expected in ((0, 3), (1, 1)):
        shutil.copytree(tmp_path, tmp_path / f"torn-{torn}")
        path = tmp_path / f"torn-{torn}" / first.name
        path.write_bytes(path.read_bytes()[: -torn or None])
        with closing(Store(path.parent)) as store:
            assert store.boot().clock_bound == expected
            assert len(journals(path.parent)) == 1


def test_a_journal_beyond_a_torn_one_never_counts_though_a_kill_leaves_it(tmp_path, monkeypatch):
    with closing(Store(tmp_path)) as store:
        store.boot()
        for bound in (1, 2, 3):
            store.commit(Changes(clock_bound=bound))
            store._begin_journal(store._journals[-1].number + 1)
    first, *_ = journals(tmp_path)
    first.write_bytes(first.read_bytes()[:-1])

    def killed(path):
        raise OSError(f"killed before {path} goes")

    with monkeypatch.context() as patch, closing(Store(tmp_path)) as store:
        patch.setattr("pathlib.Path.unlink", killed)
        with pytest.raises(StoreFailed):
            store.boot()
    with closing(Store(tmp_path)) as store:
        assert store.boot().clock_bound == 0


def test_a_checkpoint_moves_commits_into_the_file(store, tmp_path):
    store.boot()
    store.commit(Changes(own=[OwnBundle(3, (1, n), b"h", bytes(2000)) for n in range(50)]))
    (journal,) = journals(tmp_path)
    assert not store._database.execute("SELECT * FROM own").fetchall()
    store.checkpoint()
    assert len(store._database.execute("SELECT * FROM own").fetchall()) == 1
    assert not journal.exists()


def relayed(number, size_bytes=100):
    return RelayedBundle(b"h%d" % number, bytes(size_bytes), number)


def test_what_is_relayed_is_forgotten_unless_the_log_is_on_disk(tmp_path):
    with closing(Store(tmp_path, relay_log_on_disk=True)) as store:
        store.boot()
        store.commit(Changes(relayed=[relayed(1), relayed(2)]))
        store.commit(Changes(relayed=[relayed(3)]))
    with closing(Store(tmp_path, relay_log_on_disk=True)) as store:
        restored = store.boot()
        assert restored.keeps_relayed
        assert restored.relayed == [relayed(1), relayed(2), relayed(3)]
    with closing(Store(tmp_path)) as store:
        restored = store.boot()
        assert (restored.keeps_relayed, restored.relayed) == (False, [])
    with closing(Store(tmp_path, relay_log_on_disk=True)) as store:
        assert store.boot().relayed == []


@pytest.mark.parametrize(("bytes_max", "bundles_max"), [(1_000, 100), (100_000, 9)])
def test_the_relay_log_on_disk_is_bounded_and_lets_go_of_the_oldest(
    tmp_path, monkeypatch, bytes_max, bundles_max
):
    monkeypatch.setattr("broker.relay_table.RELAYED_BYTES_MAX", bytes_max)
    monkeypatch.setattr("broker.relay_table.RELAYED_BUNDLES_MAX", bundles_max)
    for first in (0, 200):  # the second boot counts what is there
        with closing(Store(tmp_path, relay_log_on_disk=True)) as store:
            store.boot()
            for number in range(first, first + 195, 5):
                store.commit(Changes(relayed=[relayed(number + n) for n in range(5)]))
    with closing(Store(tmp_path, relay_log_on_disk=True)) as store:
        assert store.boot().relayed == [relayed(number) for number in range(386, 395)]


def test_one_turn_may_bring_more_than_the_relay_log_on_disk_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("broker.relay_table.RELAYED_BUNDLES_MAX", 3)
    with closing(Store(tmp_path, relay_log_on_disk=True)) as store:
        store.boot()
        store.commit(Changes(relayed=[relayed(number) for number in range(500)]))
        store.checkpoint()
        assert store._relayed.load(store._database) == [relayed(n) for n in (497, 498, 499)]


def test_a_full_disk_takes_nothing_relayed_and_goes_on_when_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr("broker.relay_table.RELAYED_BYTES_MAX", 2_100_000)
    with closing(Store(tmp_path, relay_log_on_disk=True)) as store:
        store.boot()
        store.commit(Changes(relayed=[relayed(1)]))
        store._database.execute("PRAGMA max_page_count = 1")
        store.commit(Changes(relayed=[relayed(2, 1_000_000)]))
        with pytest.raises(StoreFailed, match="cannot be written"):
            store.checkpoint()
        store._database.execute("PRAGMA max_page_count = 1000000")
        for number in (3, 4):
            store.commit(Changes(relayed=[relayed(number, 1_000_000)]))
        store.checkpoint()
        held = store._relayed.load(store._database)
        assert held == [relayed(3, 1_000_000), relayed(4, 1_000_000)]


def test_a_damaged_page_in_the_middle_means_starting_without_memory(tmp_path):
    with closing(Store(tmp_path, relay_log_on_disk=True)) as store:
        store.boot()
        store.commit(Changes(relayed=[relayed(number, 3_000) for number in range(200)]))
        store.checkpoint()
    path = tmp_path / "mesh.sqlite"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(data)
    with closing(Store(tmp_path, relay_log_on_disk=True)) as store:
        restored = store.boot()
        assert restored.first_boot
        assert restored.relayed == []
        store.commit(Changes(relayed=[relayed(1)]))
    assert (tmp_path / "mesh.damaged").exists()


@pytest.mark.parametrize("torn", [0, 1, 4000, 4096 + 24, 9000])
def test_a_power_cut_takes_what_was_not_synced_and_nothing_else(tmp_path, monkeypatch, torn):
    disk = Disk(monkeypatch, tmp_path / "a")
    with closing(Store(tmp_path / "a")) as store:
        incarnation = store.boot().incarnation
        bundles = [OwnBundle(3, (1, n), b"head", bytes(3_000)) for n in range(1, 21)]
        for number, bundle in enumerate(bundles):
            store.commit(Changes(own=[bundle], clock_bound=number))
            if number == 9:
                store.sync()
        with disk.cut_power(tmp_path / "b", torn=torn) as after:
            restored = after.boot()
    assert restored.incarnation == incarnation + 1
    assert restored.own[:10] == bundles[:10]
    assert restored.own == bundles[: len(restored.own)]  # later ones as far as they came, in order
    assert torn >= 9000 or len(restored.own) <= 11


def test_what_a_checkpoint_has_folded_survives_a_power_cut_and_later_commits_may(
    tmp_path, monkeypatch
):
    disk = Disk(monkeypatch, tmp_path / "a")
    with closing(Store(tmp_path / "a")) as store:
        store.boot()
        store.commit(Changes(own=[OwnBundle(3, (1, n), b"h", bytes(500)) for n in range(50)]))
        store.checkpoint()
        disk.snapshot()
        store.commit(Changes(own_held={3: (1, 40)}))  # begins the log anew
        with disk.cut_power(tmp_path / "b", torn=0) as after:
            assert len(after.boot().own) == 50
        store.sync()
        with disk.cut_power(tmp_path / "c", torn=0) as after:
            assert len(after.boot().own) == 9


def test_a_sync_for_which_there_is_no_descriptor_is_told_and_the_next_one_is_good(
    tmp_path, monkeypatch
):
    with closing(Store(tmp_path)) as store:
        store.boot()
        store.commit(Changes(clock_bound=1))
        with monkeypatch.context() as patch:
            patch.setattr("os.dup", no_descriptor)
            with pytest.raises(StoreFailed, match="Too many open"):
                store.sync()
        store.sync()
    with closing(Store(tmp_path)) as store:
        assert store.boot().clock_bound == 1


def no_descriptor(_):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_journal_that_cannot_be_deleted_ends_nothing(tmp_path, monkeypatch):
    def refused(path):
        raise OSError(errno.EACCES, f"{path} stays")

    with closing(Store(tmp_path)) as store:
        store.boot()
        store.commit(Changes(clock_bound=1))
        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.unlink", refused)
            store.checkpoint()
        assert len(journals(tmp_path)) == 2
        store.commit(Changes(clock_bound=2))
        store.checkpoint()
    with closing(Store(tmp_path)) as store:
        assert store.boot().clock_bound == 2
        assert len(journals(tmp_path)) == 1


def test_after_a_failed_sync_nothing_counts_as_durable_before_a_checkpoint(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, tmp_path)
    with closing(Store(tmp_path)) as store:
        store.boot()
        store.commit(Changes(clock_bound=1))
        disk.failing = True
        with pytest.raises(StoreFailed, match="cannot be synced: Input/output error"):
            store.sync()
        disk.failing = False
        store.commit(Changes(clock_bound=2))
        store._database.execute("PRAGMA max_page_count = 1")
        store.commit(Changes(clock_bound=3, own=[OwnBundle(3, (1, 1), b"h", bytes(100_000))]))
        with pytest.raises(StoreFailed, match="cannot be written"):
            store.sync()
        assert not disk.synced
        store._database.execute("PRAGMA max_page_count = 1000000")
        store.sync()  # a checkpoint
        assert not disk.synced
        store.commit(Changes(clock_bound=4))
        store.sync()
        assert disk.synced
