"""The retained map: who wins, whatever the order, and how two maps find what differs."""

from hypothesis import given
from hypothesis import strategies as st

from broker.mesh.bundle import topic_hash
from broker.mesh.clock import LOGICAL_BITS
from broker.mesh.limits import TOMBSTONE_MS
from broker.mesh.retained import Entry, RetainedMap

HOUR_MS = 3_600_000

versions = st.tuples(st.integers(0, 2), st.integers(1, 5), st.sampled_from("ab"))


def entry(version, topic=""):
    rank, clock, origin = version
    payload = b"" if clock % 3 == 0 else f"{topic}{version}".encode()  # one version, one value
    return Entry(rank, clock, origin, payload, 1)


writes = st.lists(st.tuples(st.sampled_from(["x", "y", "z"]), versions), max_size=12)


def merged(rows):
    held = RetainedMap()
    for topic, version in rows:
        held.merge(topic, entry(version, topic))
    return held


@given(writes, st.randoms(use_true_random=False))
def test_the_greatest_version_wins_in_any_order(rows, random):
    shuffled = rows * 2
    random.shuffle(shuffled)
    one, other = merged(rows), merged(shuffled)
    expected = {}
    for topic, version in rows:
        expected[topic] = max(expected.get(topic, version), version)
    assert {topic: held.version for topic, held in one.items()} == expected
    assert dict(one.items()) == dict(other.items())
    assert (one.hash, one.live) == (other.hash, other.live)


@given(writes, writes)
def test_hashes_are_equal_exactly_when_maps_are(mine, theirs):
    one, other = merged(mine), merged(theirs)
    assert (one.hash == other.hash) is (dict(one.items()) == dict(other.items()))


@given(writes, writes)
def test_one_table_and_the_answers_to_it_make_two_maps_equal(mine, theirs):
    one, other = merged(mine), merged(theirs)
    newer_here, newer_there = other.compare(one.versions())
    wanted = [one.by_hash(key) for key in newer_there]
    for topic, value in newer_here:
        assert one.merge(topic, value)
    for topic, value in wanted:
        assert other.merge(topic, value)
    assert dict(one.items()) == dict(other.items())


@given(writes)
def test_running_figures_stay_right(rows):
    held = merged(rows)
    entries = dict(held.items())
    assert held.live == sum(bool(value.payload) for value in entries.values())
    assert held._bytes == sum(len(topic) + len(value.payload) for topic, value in entries.items())
    assert {held.by_hash(topic_hash(topic))[0] for topic in entries} == set(entries)


def test_tombstones_are_forgotten_by_the_full_hour_and_not_taken_again():
    held = RetainedMap()
    old = Entry(0, HOUR_MS << LOGICAL_BITS, "a", b"", 1)
    value = Entry(0, HOUR_MS << LOGICAL_BITS, "a", b"v", 1)
    held.merge("gone", old)
    held.merge("here", value)
    just_before = HOUR_MS + TOMBSTONE_MS << LOGICAL_BITS
    assert held.purge(just_before) == []
    assert held.purge(just_before + (HOUR_MS << LOGICAL_BITS)) == ["gone"]
    assert "gone" not in held
    assert not held.merge("gone", old)
    assert held.get("here") == value
