"""What makes a replicated type one: its join is commutative, associative, idempotent, and right."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.crdt.counters import GCounter, PnCounter
from agent.crdt.maps import JoinMap, NewestMap
from agent.crdt.orset import OrSet
from agent.crdt.registers import Register

REPLICAS = st.sampled_from(["a:1", "a:2", "b:1", "c:1"])
NUMBERS = st.integers(0, 5)

g_counters = st.dictionaries(REPLICAS, NUMBERS).map(GCounter)
pn_counters = st.builds(PnCounter, g_counters, g_counters)
stamps = st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from("ab"))
registers = st.builds(
    lambda stamp, payload: Register(stamp, payload, payload or None),
    stamps,
    st.sampled_from([b"", b"x", b"y"]),
)


@st.composite
def or_sets(draw):
    context = draw(st.dictionaries(REPLICAS, st.integers(1, 4)))
    dots = [(replica, n) for replica, last in context.items() for n in range(1, last + 1)]
    elements = {}
    for dot in dots:
        # A dot stands for one addition, so it can keep one element only, the same everywhere.
        if draw(st.booleans()):
            elements.setdefault("xyz"[(dot[1] + len(dot[0]) + ord(dot[0][0])) % 3], set()).add(dot)
    return OrSet({name: frozenset(kept) for name, kept in elements.items()}, context)


TYPES = {
    "g_counter": g_counters,
    "pn_counter": pn_counters,
    "register": registers,
    "or_set": or_sets(),
}


@pytest.mark.parametrize("values", TYPES.values(), ids=TYPES)
@given(st.data())
def test_join_laws(values, data):
    a, b, c = (data.draw(values) for _ in range(3))
    assert a.join(a) == a
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(b).canonical() == b.join(a).canonical()
    assert (a == b) <= (a.canonical() == b.canonical())


@pytest.mark.parametrize("name", ["g_counter", "pn_counter", "or_set"])
@given(st.data())
def test_covers_says_whether_a_join_changes_anything(name, data):
    a, b = data.draw(TYPES[name]), data.draw(TYPES[name])
    assert a.covers(b) is (a.join(b) == a)
    assert a.join(b).covers(a)
    assert (a.canonical() == b.canonical()) is (a == b)


@given(st.lists(registers, min_size=1), st.randoms(use_true_random=False))
def test_a_register_holds_the_newest(values, random):
    shuffled = random.sample(values, len(values))
    joined = shuffled[0]
    for value in shuffled[1:]:
        joined = joined.join(value)
    assert joined == max(values, key=stamp_of)


def stamp_of(register):
    return (*register.stamp, register.payload)


def test_a_register_is_ordered_by_rank_then_clock_then_origin():
    ordered = [(0, 9, "z"), (1, 0, "a"), (1, 0, "b"), (1, 1, "a")]
    values = [Register(stamp, b"x", 1) for stamp in ordered]
    assert all(newer.is_newer_than(older) for older, newer in pairwise(values))
    assert not values[0].is_newer_than(values[0])


def test_a_g_counter_does_not_count_down():
    with pytest.raises(ValueError, match="use a PN-counter"):
        GCounter().increment("a:1", -1)


def test_a_pn_counter_lists_its_replicas():
    counter = PnCounter().add("b:1", 3).add("a:1", -2).add("b:1", -1)
    assert list(counter.replicas()) == [("a:1", (0, 2)), ("b:1", (3, 1))]
    assert PnCounter.of(dict(counter.replicas())).value == counter.value == 0


def test_concurrent_add_wins_over_remove():
    both = OrSet().add("a:1", "x")
    removed = both.remove("x")
    added = both.add("b:1", "x")
    assert removed.join(both).value == frozenset()
    assert removed.join(added).value == {"x"}
    assert removed.join(added).remove("x").join(added).join(both).value == frozenset()


class CountersEqualTheirHistory(RuleBasedStateMachine):
    """Each replica counts, replicas are joined at will; the value is what was counted and heard."""

    replicas = ("a:1", "b:1", "c:1")

    def __init__(self):
        super().__init__()
        self.states = dict.fromkeys(self.replicas, PnCounter())
        self.heard = {name: Counter() for name in self.replicas}
        self.events = []

    @rule(name=st.sampled_from(replicas), by=st.integers(-3, 3))
    def count(self, name, by):
        self.states[name] = self.states[name].add(name, by)
        self.heard[name][len(self.events)] = 1
        self.events.append(by)

    @rule(there=st.sampled_from(replicas), here=st.sampled_from(replicas))
    def join(self, there, here):
        self.states[here] = self.states[here].join(self.states[there])
        self.heard[here] |= self.heard[there]

    @invariant()
    def values_agree(self):
        for name, state in self.states.items():
            assert state.value == sum(self.events[event] for event in self.heard[name])


class SetsEqualTheirHistory(RuleBasedStateMachine):
    """An element is in exactly if some addition was heard that no heard removal had seen."""

    replicas = ("a:1", "b:1", "c:1")
    names = st.sampled_from(replicas)
    elements = st.sampled_from("xyz")

    def __init__(self):
        super().__init__()
        self.states = dict.fromkeys(self.replicas, OrSet())
        self.additions = {name: set() for name in self.replicas}
        self.removals = {name: set() for name in self.replicas}
        self.number = 0

    @rule(name=names, element=elements)
    def add(self, name, element):
        self.number += 1
        # An addition stands for the ones that it has seen, so it takes their place.
        self._see_removed(name, element)
        self.states[name] = self.states[name].add(name, element)
        self.additions[name].add((element, self.number))

    @rule(name=names, element=elements)
    def remove(self, name, element):
        self._see_removed(name, element)
        self.states[name] = self.states[name].remove(element)

    def _see_removed(self, name, element):
        self.removals[name] |= {event for event in self.additions[name] if event[0] == element}

    @rule(there=names, here=names)
    def join(self, there, here):
        self.states[here] = self.states[here].join(self.states[there])
        self.additions[here] |= self.additions[there]
        self.removals[here] |= self.removals[there]

    @invariant()
    def values_agree(self):
        for name, state in self.states.items():
            kept = self.additions[name] - self.removals[name]
            assert state.value == {element for element, _ in kept}


class JoinMapEqualsAPlainJoin(RuleBasedStateMachine):
    """Whatever the writers say, grow or shrink or fall silent, the join is that of what stands."""

    writers = st.sampled_from("abc")

    def __init__(self):
        super().__init__()
        self.map = JoinMap()
        self.plain = {}

    @rule(writer=writers, replica=st.none() | g_counters)
    def put(self, writer, replica):
        self.map.put("key", writer, replica)
        self.plain.pop(writer, None)
        if replica is not None:
            self.plain[writer] = replica

    @rule(writer=writers, by=NUMBERS)
    def grow(self, writer, by):
        self.put(writer, self.plain.get(writer, GCounter()).increment(f"{writer}:1", by))

    @invariant()
    def values_agree(self):
        joined = GCounter()
        for replica in self.plain.values():
            joined = joined.join(replica)
        assert self.map.get("key") == (joined if self.plain else None)
        assert self.map.get("other") is None


TestCounters = CountersEqualTheirHistory.TestCase
TestSets = SetsEqualTheirHistory.TestCase
TestJoinMap = JoinMapEqualsAPlainJoin.TestCase


def _map_of(puts, entries_max):
    entries = NewestMap(entries_max)
    for key, register, weight in puts:
        entries.put(key, register, weight)
        for _ in entries.pop_excess():
            pass
    return entries


@st.composite
def histories(draw):
    """Writes of five keys, each with a weight of its own."""
    weights = st.tuples(st.integers(0, 6), st.just(0), st.just(""))
    return draw(st.lists(st.tuples(st.sampled_from("vwxyz"), registers, weights), max_size=12))


@given(histories(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_bounded_map_does_not_depend_on_order_or_repetition(puts, entries_max, random):
    # A register's weight goes with it: equal registers of one key must not differ in weight.
    fixed = {}
    puts = [(key, reg, fixed.setdefault((key, reg), weight)) for key, reg, weight in puts]
    shuffled = random.sample(puts, len(puts)) + random.sample(puts, min(len(puts), 3))
    straight, other = _map_of(puts, entries_max), _map_of(shuffled, entries_max)
    assert len(straight) <= entries_max
    heaviest = sorted({(max(w for k, _, w in puts if k == key), key) for key, _, _ in puts})
    kept = [key for key, _ in straight.items()]
    assert kept == sorted(key for _, key in heaviest[-entries_max:])
    assert kept == [key for key, _ in other.items()]


@given(histories(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_with_growing_weights_values_are_the_same_too(puts, entries_max, random):
    puts = [(key, register, stamp_of(register)) for key, register, _ in puts]
    shuffled = random.sample(puts, len(puts)) + random.sample(puts, min(len(puts), 3))
    straight, other = _map_of(puts, entries_max), _map_of(shuffled, entries_max)
    assert straight.canonical() == other.canonical()
    half = len(puts) // 2
    left, right = _map_of(puts[:half], entries_max), _map_of(puts[half:], entries_max)
    left.join(right)
    assert left.canonical() == straight.canonical()
    left.join(left)
    assert left.canonical() == straight.canonical()


def test_pop_until_takes_what_is_due_and_minds_raised_weights():
    register = Register((1, 1, "a"), b"x", 1)
    older = Register((0, 1, "a"), b"x", 1)
    entries = NewestMap(10)
    for key, first in (("x", 5), ("y", 3), ("z", 9)):
        assert entries.put(key, register, (first, 0, ""))
    assert not entries.put("y", older, (7, 0, ""))  # stale, yet it is to be remembered longer
    assert list(entries.pop_until(4)) == []
    assert list(entries.pop_until(7)) == ["x", "y"]
    assert "z" in entries
    assert list(entries.pop_until(100)) == ["z"]
    assert len(entries) == 0
