"""What the store keeps, and what it does when it cannot."""

import sqlite3
from contextlib import closing

import pytest

from broker.errors import StateInUse, StoreFailed
from broker.mesh.events import Changes, OwnBundle
from broker.mesh.retained import Entry
from broker.store import FIRST_INCARNATION_MAX, Store


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


def test_a_full_disk_stores_nothing_and_says_so(tmp_path):
    store = Store(tmp_path)
    store.boot()
    store.commit(Changes(clock_bound=1))
    store._database.execute("PRAGMA max_page_count = 1")
    big = OwnBundle(3, (1, 1), b"h", bytes(1_000_000))
    with pytest.raises(StoreFailed, match="cannot be written"):
        store.commit(Changes(clock_bound=2, own=[big]))
    with reopened(store, tmp_path) as again:
        restored = again.boot()
    assert restored.clock_bound == 1
    assert restored.own == []


def test_a_checkpoint_moves_commits_into_the_file(store, tmp_path):
    store.boot()
    store.commit(Changes(own=[OwnBundle(3, (1, n), b"h", bytes(2000)) for n in range(50)]))
    before = (tmp_path / "mesh.sqlite").stat().st_size
    store.checkpoint()
    assert (tmp_path / "mesh.sqlite").stat().st_size > before
