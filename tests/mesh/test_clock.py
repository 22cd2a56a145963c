"""The hybrid logical clock's rules."""

from hypothesis import given
from hypothesis import strategies as st

from broker.mesh.clock import LOGICAL_BITS, HybridClock, wall_ms_of
from broker.mesh.limits import CLOCK_AHEAD_MAX_MS, CLOCK_BOUND_MS, MS

WALL_MS = 1_700_000_000_000


def clock(*, wall_ms=WALL_MS, synchronised=True, bound=0):
    made = HybridClock(bound)
    made.set_wall(wall_ms, 0, synchronised=synchronised)
    return made


steps = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), st.integers(0, 10**12)),
        st.tuples(st.just("wall"), st.integers(0, 2 * WALL_MS)),
        st.tuples(st.just("observe"), st.integers(0, (2 * WALL_MS) << LOGICAL_BITS)),
    ),
    max_size=40,
)


@given(steps, st.booleans())
def test_stamps_only_grow_whatever_the_wall_clock_does(rows, synchronised):
    made = clock(synchronised=synchronised)
    last = 0
    for what, number in rows:
        if what == "tick":
            stamp = made.tick(number)
            assert stamp > last
            last = stamp
        elif what == "wall":
            made.set_wall(number, 0, synchronised=synchronised)
        else:
            made.observe(number, 0)
            assert made.last >= last
            if made.last == number:
                assert made.tick(0) > number
            last = made.last


def test_a_stamp_shows_the_wall_clock_when_nothing_else_pushes_it():
    made = clock()
    assert wall_ms_of(made.tick(5 * MS)) == WALL_MS + 5
    assert made.tick(5 * MS) == (WALL_MS + 5 << LOGICAL_BITS) + 1
    assert wall_ms_of(made.tick(6 * MS)) == WALL_MS + 6


def test_reading_gives_no_stamp():
    made = clock()
    assert made.read(0) == made.read(0) == WALL_MS << LOGICAL_BITS
    assert made.last == 0


def test_a_synchronised_clock_does_not_follow_one_that_is_far_ahead():
    limit = WALL_MS + CLOCK_AHEAD_MAX_MS << LOGICAL_BITS
    made = clock()
    made.observe(limit, 0)
    assert made.last == limit
    made.observe(limit + (1 << LOGICAL_BITS), 0)
    assert made.last == limit


def test_an_unsynchronised_clock_follows_anyone():
    made = clock(wall_ms=0, synchronised=False)
    made.observe(WALL_MS << LOGICAL_BITS, 0)
    assert made.tick(0) == (WALL_MS << LOGICAL_BITS) + 1


def test_the_past_changes_nothing():
    made = clock()
    stamp = made.tick(0)
    made.observe(1, 0)
    assert made.last == stamp


def test_no_stamp_is_given_twice_over_a_restart_with_the_wall_clock_gone_back():
    before = clock()
    stamp = before.tick(0)
    bound = before.store(with_others=True)
    after = clock(wall_ms=0, synchronised=False, bound=bound)
    assert after.tick(0) > stamp


def test_the_bound_is_stored_with_others_or_once_in_a_while():
    made = clock()
    assert made.store(with_others=True) is None
    first = made.tick(0)
    assert made.store(with_others=True) == first
    made.tick(CLOCK_BOUND_MS * MS // 2)
    assert made.store(with_others=False) is None
    later = made.tick(CLOCK_BOUND_MS * MS)
    assert made.store(with_others=False) == later
    assert made.store(with_others=True) is None
