"""What a neighbour that lies about ranges can cost: bounded work and memory, a count, and in the end its link."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.mesh import frame
from broker.mesh.control import (
    Ask,
    Digest,
    Entries,
    Hello,
    Ranges,
    decode_control,
    encode_control,
    pack_sums,
)
from broker.mesh.events import CloseLink, Misbehaved, Restored
from broker.mesh.frame import encode_frame
from broker.mesh.hashes import text_hash
from broker.mesh.limits import (
    CLOCK_MAX,
    MS,
    RANGES_MAX,
    RECONCILE_WORK_MAX,
    RECONCILE_WORK_MS,
)
from broker.mesh.mesh import Mesh
from broker.mesh.retained import Entry

NOW_NS = 10**12
WALL_MS = 1_700_000_000_000
CLOCK = WALL_MS << 16


def met(count=0):
    """A device with so many values, and a neighbour that it has met and whose digest it knows."""
    retained = {f"r/{n}": Entry(0, CLOCK + n, "o", b"v", 1) for n in range(count)}
    restored = Restored(2, CLOCK, 0, retained=retained, first_boot=False)
    mesh = Mesh("a", Random(1), now_ns=NOW_NS, wall_ms=WALL_MS, restored=restored)
    mesh.link_up("h", NOW_NS)
    say(mesh, Hello(1, "h", 1, 0, CLOCK, True))
    say(mesh, Digest(True, True, False, 0, mesh.retained.hash, 0, []))
    mesh.frames_to_send("h", 1 << 24, NOW_NS)
    events(mesh)
    return mesh


def say(mesh, control, now_ns=NOW_NS):
    mesh.receive("h", encode_frame([encode_control(control)]), now_ns)


def events(mesh):
    found = []
    while (event := mesh.next_event()) is not None:
        found.append(event)
    return found


def answers(mesh, now_ns=NOW_NS):
    """Records of the exchange that the device sends now."""
    records = []
    while frames := mesh.frames_to_send("h", 1 << 20, now_ns):
        records += [record for data in frames for record in frame.decode_frame(data)]
    kinds = (frame.RANGES, frame.ENTRIES, frame.ASK)
    return [decode_control(kind, body) for kind, body in records if kind in kinds]


def different_sums(seed=0):
    return pack_sums([Random(seed).getrandbits(64) for _ in range(16)])


def test_ranges_never_narrow_beyond_a_single_key():
    mesh = met(50)
    within, rounds = (0, 0), 0
    while True:
        say(mesh, Ranges(0, [(*within, different_sums(rounds))], []))
        (ranges,) = answers(mesh)
        if not ranges.sums:
            break
        within = ranges.sums[0][:2]
        rounds += 1
    assert rounds < 3
    say(mesh, Ranges(0, [(15, 0, different_sums())], []))
    (ranges,) = answers(mesh)
    assert not ranges.sums
    assert ranges.lists == [(16, digit, []) for digit in range(16)]
    for digits, prefix in ((16, 0), (-1, 0), (2, 256), (2, -1)):
        say(mesh, Ranges(0, [(digits, prefix, different_sums())], []))
        assert isinstance(events(mesh)[-1], Misbehaved)


@pytest.mark.parametrize(
    "lie",
    [
        Ranges(0, [(0, 0, b"short")], []),
        Ranges(0, [], [(1, 0, [(1 << 63, 0, 5, "o")])]),
        Ranges(0, [], [(0, 0, [(n, 0, 5, "o") for n in range(17)])]),
        Ranges(0, [], [(17, 0, [])]),
        Ranges(0, [], [(1, 16, [])]),
        Ranges(0, [], [(16, n, []) for n in range(RANGES_MAX + 1)]),
        Ask(0, list(range(RANGES_MAX + 1)), []),
        Entries([("t", b"", 1, 0, 0, "o")]),
        Entries([("#", b"", 1, 0, 5, "o")]),
        Entries([("t", b"", 3, 0, 5, "o")]),
    ],
)
def test_an_impossible_record_is_told_and_changes_nothing(lie):
    mesh = met(5)
    before = dict(mesh.retained.items())
    say(mesh, lie)
    assert any(isinstance(event, Misbehaved) for event in events(mesh))
    assert dict(mesh.retained.items()) == before
    assert not answers(mesh)


def test_the_same_question_waits_once_however_often_it_is_put():
    mesh = met(300)
    for seed in range(50):
        say(mesh, Ranges(0, [(0, 0, different_sums(seed))], []))
    assert len(mesh._state.peers["h"].exchange.ranges_due) == 16
    for _ in range(50):
        say(mesh, Ask(0, [text_hash("r/1")] * 100, [text_hash("r/2")] * 100))
    assert len(mesh._state.peers["h"].exchange.entries_due) == 2


def test_whoever_keeps_asking_is_told_and_then_cut_off():
    mesh = met(2_000)
    sent = 0
    for _ in range(RECONCILE_WORK_MAX // 2_000 + 10):
        say(mesh, Ranges(0, [], [(0, 0, [])]))
        sent += sum(len(a.entries) for a in answers(mesh) if isinstance(a, Entries))
        seen = events(mesh)
        if any(isinstance(event, CloseLink) for event in seen):
            break
    assert sent <= RECONCILE_WORK_MAX
    assert isinstance(seen[-1], CloseLink)
    assert mesh.statistics().counters["bad_frames"] == 8


def test_whoever_asked_too_much_may_ask_again_later():
    mesh = met(2_000)
    while not events(mesh):
        say(mesh, Ranges(0, [], [(0, 0, [])]))
        answers(mesh)
    later_ns = NOW_NS + RECONCILE_WORK_MS * MS
    say(mesh, Ranges(0, [], [(0, 0, [])]), later_ns)
    assert sum(len(a.entries) for a in answers(mesh, later_ns)) == 2_000


def test_what_nobody_reads_is_bounded(monkeypatch):
    monkeypatch.setattr("broker.mesh.exchange.RECONCILE_DUE_MAX", 1_000)
    mesh = met(200)
    for first in range(0, 2_000, 100):
        prefixes = range(first, first + 100)
        say(mesh, Ranges(0, [(12, prefix, different_sums()) for prefix in prefixes], []))
        lists = [(12, prefix, [(prefix << 16, 1, CLOCK, "o")]) for prefix in prefixes]
        say(mesh, Ranges(0, [], lists))
    assert events(mesh) == []
    exchange = mesh._state.peers["h"].exchange
    assert len(exchange.ranges_due) == len(exchange.unknown) == 1_000


@pytest.mark.parametrize("floor", [CLOCK_MAX, -1])
def test_an_impossible_floor_is_told_and_erases_nothing(floor):
    for control in (
        Digest(True, True, False, 0, 0, floor, []),
        Ranges(floor, [], [(0, 0, [])]),
        Ask(floor, [text_hash("r/1")], []),
    ):
        mesh = met(5)
        say(mesh, control)
        assert any(isinstance(event, Misbehaved) for event in events(mesh))
        assert answers(mesh) == []
        assert len(mesh.retained) == 5


def test_a_floor_from_the_end_of_time_erases_nothing():
    mesh = met(5)
    say(mesh, Ranges((1 << 59) - 1, [], [(0, 0, [])]))
    (entries,) = [a for a in answers(mesh) if isinstance(a, Entries)]
    assert len(entries.entries) == len(mesh.retained) == 5


def test_an_older_value_that_crosses_does_not_hold_back_the_newer_one():
    mesh = met(5)
    say(mesh, Ask(0, [], [text_hash("r/1"), text_hash("r/2")]))
    say(
        mesh,
        Entries([("r/1", b"older", 1, 0, CLOCK - 9, "o"), ("r/2", b"v", 1, 0, CLOCK + 2, "o")]),
    )
    (entries,) = answers(mesh)
    assert [row[0] for row in entries.entries] == ["r/1"]


def test_an_old_list_that_overtakes_is_judged_by_the_floor_that_it_was_made_with():
    mesh = met(0)
    old = Entry(0, CLOCK - (20 * 24 * 3600 * 1000 << 16), "o", b"v", 1)
    mesh.retained.merge("old", old)
    say(mesh, Digest(True, True, False, 0, 0, CLOCK, []))
    say(mesh, Ranges(0, [], [(0, 0, [])]))
    assert mesh.retained.get("old") == old
    say(mesh, Ranges(CLOCK, [], [(0, 0, [])]))
    assert mesh.retained.get("old") is None


integers = st.integers(-2, 17) | st.integers(0, 2**64 - 1)
rows = st.tuples(integers, integers, integers, st.text("ab#", max_size=40))
controls = st.one_of(
    st.builds(
        Ranges,
        integers,
        st.lists(st.tuples(integers, integers, st.binary(max_size=4) | st.just(bytes(128)))),
        st.lists(st.tuples(integers, integers, st.lists(rows, max_size=18))),
    ),
    st.builds(Ask, integers, st.lists(integers), st.lists(integers)),
    st.builds(
        Entries,
        st.lists(
            st.tuples(
                st.text("ab/#\0"), st.binary(), integers, integers, integers, st.text(max_size=40)
            )
        ),
    ),
    st.builds(Digest, *[st.booleans()] * 3, *[integers] * 3, st.just([])),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(controls, max_size=8))
def test_whatever_is_said_nothing_is_raised_and_the_answers_decode(said):
    mesh = met(40)
    for number, control in enumerate(said):
        now_ns = NOW_NS + number * 300 * MS
        say(mesh, control, now_ns)
        mesh.handle_timer(now_ns)
        mesh.seal(now_ns)
        mesh.take_changes()
        answers(mesh, now_ns)
