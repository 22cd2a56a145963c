"""The retained map: who wins, whatever the order, and how two maps find what differs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.mesh.hashes import text_hash
from broker.mesh.retained import Entry, RetainedMap

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
def test_one_list_and_the_answers_to_it_make_two_maps_equal(mine, theirs):
    one, other = merged(mine), merged(theirs)
    found = other.compare((0, 0), one.rows((0, 0)))
    for topic in found.newer_here + found.only_here:
        assert one.merge(topic, other.get(topic))
    for key in found.newer_there + found.only_there:
        assert other.merge(one.find(key), one.get(one.find(key)))
    assert dict(one.items()) == dict(other.items())


@given(writes, st.lists(st.sampled_from("xyz")))
def test_running_figures_stay_right(rows, dropped):
    held = merged(rows)
    for topic in dropped:
        if topic in held:
            held.drop(topic)
    entries = dict(held.items())
    assert held.live == sum(bool(value.payload) for value in entries.values())
    assert held._bytes == sum(len(topic) + len(value.payload) for topic, value in entries.items())
    assert {held.find(text_hash(topic)) for topic in entries} == set(entries)
    fresh = RetainedMap()
    for topic, value in entries.items():
        fresh.merge(topic, value)
    assert held.hash == fresh.hash


def test_tombstones_below_the_floor_are_forgotten_and_not_taken_again():
    held = RetainedMap()
    old, value = Entry(0, 7, "a", b"", 1), Entry(0, 7, "a", b"v", 1)
    held.merge("gone", old)
    held.merge("here", value)
    assert held.purge(7) == []
    assert held.purge(8) == ["gone"]
    assert "gone" not in held
    assert not held.merge("gone", old)
    assert held.get("here") == value
    assert held.purge(6) == []
    assert held.floor == 8


def test_two_topics_of_one_hash_do_not_break_the_map(monkeypatch):
    monkeypatch.setattr("broker.mesh.retained.text_hash", lambda topic: 5)
    one, other = RetainedMap(), RetainedMap()
    rows = [("x", Entry(0, 3, "a", b"x", 1)), ("y", Entry(0, 4, "a", b"y", 1))]
    for topic, value in rows:
        one.merge(topic, value)
    for topic, value in reversed(rows):
        other.merge(topic, value)
    assert dict(one.items()) == dict(other.items()) == dict(rows[1:])
    assert one.take_evicted() == ["x"]
    assert one.hash == other.hash


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(1, 30), st.booleans()), max_size=80))
def test_over_the_cap_the_oldest_goes_tombstones_first(rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("broker.mesh.retained.RETAINED_TOPICS_MAX", 3)
        held, naive = RetainedMap(), {}
        for number, clock, alive in rows:
            topic, value = f"t{number}", Entry(0, clock, f"{number}", b"v" * alive, 1)
            held.merge(topic, value)
            if topic not in naive or naive[topic].version < value.version:
                naive[topic] = value
            if len(naive) > 6:
                del naive[min(naive, key=lambda t: (bool(naive[t].payload), naive[t].version))]
            assert dict(held.items()) == naive
