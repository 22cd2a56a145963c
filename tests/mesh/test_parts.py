"""Streams, log and outbox, each against a naive model."""

from hypothesis import given
from hypothesis import strategies as st

from broker.mesh import log as log_module
from broker.mesh import outbox as outbox_module
from broker.mesh.bundle import Header, lane_of
from broker.mesh.limits import MS, TICK_MS, WAITING_BUNDLES_MAX, WINDOW_NUMBERS
from broker.mesh.log import Log, Stored
from broker.mesh.outbox import Outbox
from broker.mesh.streams import FreshStream, KeptStream, Verdict

KEPT, FRESH = lane_of(2, kept=True), lane_of(3, kept=False)


def stored(incarnation, sequence, *, lane=KEPT, closes=None, size=10, expires_ns=None, topics=()):
    lifetime_ms = 0 if expires_ns is None else 1_000
    header = Header(
        "o", lane, incarnation, sequence, 1, 5, lifetime_ms, size, closes, topics=topics
    )
    return Stored(header, b"", bytes(size), expires_ns, 0)


def chain(lengths):
    """A stream over several incarnations; each names where the one before it ended."""
    rows, before = [], None
    for number, length in enumerate(lengths):
        incarnation = 2 * number + 1
        rows += [
            stored(incarnation, sequence, closes=before if sequence == 1 else None)
            for sequence in range(1, length + 1)
        ]
        before = (incarnation, length)
    return rows


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_kept_stream_passes_everything_once_and_in_order_whatever_comes_when(lengths, random):
    rows = chain(lengths)
    arriving = rows * 2
    random.shuffle(arriving)
    stream, passed = KeptStream(), []
    for bundle in arriving:
        if not stream.knows(bundle.header.position):
            assert stream.accept(bundle) is Verdict.NEW
            passed += stream.advance()
    assert passed == rows
    assert stream.position == rows[-1].header.position
    assert stream.waiting == {}
    assert stream.waiting_bytes == 0


def test_a_kept_stream_takes_memory_once_and_it_moves_nothing():
    stream = KeptStream((1, 3), rebuild=True)
    assert stream.accept(stored(1, 2)) is Verdict.REBUILD
    assert stream.knows((1, 2))
    assert not stream.knows((1, 1))
    assert stream.position == (1, 3)
    stream.end_rebuild()
    assert stream.knows((1, 1))


def test_a_kept_stream_holds_so_many_and_prefers_the_nearest():
    stream = KeptStream()
    for sequence in range(WAITING_BUNDLES_MAX, 0, -1):
        stream.accept(stored(1, sequence + 2))
    assert stream.accept(stored(1, WAITING_BUNDLES_MAX + 5)) is Verdict.FULL
    assert stream.accept(stored(1, 2)) is Verdict.NEW
    assert len(stream.waiting) == WAITING_BUNDLES_MAX
    assert (1, WAITING_BUNDLES_MAX + 2) not in stream.waiting


def test_a_jump_stops_before_what_waits():
    stream = KeptStream((1, 1))
    stream.accept(stored(1, 5))
    assert stream.jump((1, 9)) == (1, 4)
    assert [bundle.header.sequence for bundle in stream.advance()] == [5]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3_000)), max_size=60))
def test_a_fresh_stream_takes_each_sequence_once_within_its_window(rows):
    stream, seen, newest, incarnation = FreshStream(), set(), 0, 0
    for inc, sequence in rows:
        if inc > incarnation:
            seen, newest, incarnation = set(), 0, inc
        expected = (
            inc == incarnation and sequence not in seen and newest - sequence < WINDOW_NUMBERS
        )
        assert stream.knows(inc, sequence) is not expected
        if expected:
            stream.accept(inc, sequence)
            seen.add(sequence)
            newest = max(newest, sequence)


@given(
    st.lists(st.integers(1, 30), max_size=40, unique=True),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(5, 40),
)
def test_the_log_holds_what_fits_and_says_from_where_on(sequences, after, upto, bound):
    log = Log()
    limit, log_module.LOG_BUNDLES_MAX = log_module.LOG_BUNDLES_MAX, bound
    try:
        for sequence in sequences:
            log.add(stored(1, sequence))
    finally:
        log_module.LOG_BUNDLES_MAX = limit
    held = sequences[max(0, len(sequences) - bound) :]
    found = [bundle.header.sequence for bundle in log.between(("o", KEPT), (1, after), (1, upto))]
    assert found == sorted(s for s in held if after < s <= upto)
    assert log.size_bytes == 10 * len(held) == 10 * len(log)
    evicted = sequences[: len(sequences) - len(held)]
    assert log.held_after.get(("o", KEPT), (0, 0)) == max(((1, s) for s in evicted), default=(0, 0))


def test_an_expired_body_is_let_go_and_its_header_stays():
    log = Log()
    short, long = stored(1, 1, expires_ns=5), stored(1, 2, expires_ns=3 * TICK_MS * MS)
    log.add(short)
    log.add(long)
    log.expire(TICK_MS * MS)
    assert (short.body, len(long.body)) == (b"", 10)
    assert log.between(("o", KEPT), (0, 0), (9, 9)) == [short, long]
    assert log.size_bytes == 10


def test_what_comes_back_below_the_floor_lowers_it_as_far_as_it_joins():
    log = Log()
    log.held_after["o", KEPT] = (1, 5)
    for sequence in (2, 4, 5):
        log.add(stored(1, sequence))
    assert log.lower_floor(("o", KEPT))
    assert log.held_after["o", KEPT] == (1, 3)
    log.add(stored(1, 3))
    assert log.lower_floor(("o", KEPT))
    assert log.held_after["o", KEPT] == (1, 1)
    assert not log.lower_floor(("o", KEPT))


def taken(outbox, now_ns=0):
    found = []
    while (bundle := outbox.pop(range(5), now_ns)) is not None:
        found.append(bundle)
    return found


def test_an_outbox_gives_by_priority_and_then_in_order():
    outbox = Outbox()
    rows = [
        stored(1, n, lane=lane_of(priority, kept=True))
        for n, priority in enumerate([3, 1, 3, 0, 1], 1)
    ]
    for bundle in rows:
        outbox.add(bundle)
    assert [bundle.header.sequence for bundle in taken(outbox)] == [4, 2, 5, 1, 3]
    assert (len(outbox), outbox.size_bytes) == (0, 0)


def test_a_newer_fresh_bundle_takes_the_place_of_one_whose_topics_it_covers():
    outbox = Outbox()
    older = stored(1, 1, lane=FRESH, topics=(7,))
    other = stored(1, 2, lane=FRESH, topics=(8,))
    newer = stored(1, 3, lane=FRESH, topics=(7, 8))
    outbox.add(older)
    outbox.add(other)
    outbox.add(newer)
    assert outbox.conflated == 1
    assert taken(outbox) == [older, newer]
    outbox.add(newer)
    outbox.add(older)  # an older one comes later by another way: both go
    assert taken(outbox) == [newer, older]


def test_expired_fresh_bundles_are_passed_over_and_kept_ones_travel():
    outbox = Outbox()
    outbox.add(stored(1, 1, lane=FRESH, topics=(7,), expires_ns=5 * MS))
    kept = stored(1, 1, expires_ns=5 * MS)
    outbox.add(kept)
    assert taken(outbox, 10 * MS) == [kept]
    assert outbox.expired == 1


def test_an_outbox_that_is_full_drops_the_oldest_of_the_least_urgent():
    outbox = Outbox()
    limit, outbox_module.OUTBOX_BUNDLES_MAX = outbox_module.OUTBOX_BUNDLES_MAX, 3
    try:
        urgent = stored(1, 1, lane=lane_of(1, kept=True))
        bulk = [stored(1, n, lane=lane_of(4, kept=True)) for n in (1, 2, 3)]
        for bundle in (urgent, *bulk):
            outbox.add(bundle)
    finally:
        outbox_module.OUTBOX_BUNDLES_MAX = limit
    assert outbox.dropped == 1
    assert taken(outbox) == [urgent, *bulk[1:]]
