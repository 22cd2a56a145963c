"""Whom to dial: the graph of everybody's links stays whole, within its bounds, and does not move without need."""

from random import Random

import pytest

from broker.topology import (
    AWAY_KEPT_MAX,
    AWAY_ON_CIRCLE_MAX,
    FULL_MAX,
    MENDS_MAX,
    RELEASE_MS,
    UNWANTED_MAX,
    Candidate,
    Topology,
)

S = 1_000_000_000
AWAY_S = 3
"""A device that has been dialled for so long without an answer counts as away."""
HEARD_S = 5


class Fleet:
    """Many devices on virtual seconds: who knows whom, whose radio reaches whom, and the links that follow."""

    def __init__(self, seed, kind, count, *, known=None, mends=False, **options):
        self.random = Random(seed)
        self.kind = kind
        self.options = options
        self.now_s = 0
        self.devices = {}
        self.knows = {}
        self.known = known
        self.mends = mends  # else nobody finds that it hears too little: the circle alone must do
        self.dialled = {}
        self.failing = {}  # (from, to): since when it is dialled in vain
        self.unheard = {}  # (by, of): since when
        self.measured = set()
        self.links = set()
        self.groups = {}
        self.place = {}
        for number in range(count):
            self.join(f"d{number:03}")

    def join(self, name, *, everybody=True):
        self.devices[name] = Topology(name, self.kind, self.random, **self.options)
        self.dialled[name] = frozenset()
        self.place[name] = (self.random.random() * 50, self.random.random() * 50)
        self.knows[name] = set()
        if self.known is None and everybody:
            for other in self.devices:
                self.knows[other].add(name)
                self.knows[name].add(other)
        elif self.known is not None:
            self.knows[name] = set(self.known.get(name, ()))

    def die(self, name):
        """It is gone, and the others are not told."""
        del self.devices[name], self.dialled[name]
        self.links = {link for link in self.links if name not in link}

    def rtt_ms(self, a, b):
        (x, y), (u, v) = self.place[a], self.place[b]
        return 1 + abs(x - u) + abs(y - v)

    def reach(self, a, b):
        return b in self.devices and self.groups.get(a, 0) == self.groups.get(b, 0)

    def cut(self, half):
        self.groups = dict.fromkeys(half, 1)
        self.links = {link for link in self.links if self.reach(*link)}

    def part_of(self, name):
        part, new = {name}, [name]
        around = {device: set() for device in self.devices}
        for a, b in self.links:
            around[a].add(b)
            around[b].add(a)
        while new:
            more = around[new.pop()] - part
            part |= more
            new += more
        return part

    def connected(self, among=None):
        return set(among or self.devices) <= self.part_of(next(iter(among or self.devices)))

    def candidates(self, name, part):
        for other in sorted(self.knows[name] - {name}):
            pair = (name, other)
            if other in part:
                self.unheard.pop(pair, None)
            silent_s = (
                self.now_s - self.unheard.setdefault(pair, self.now_s) if other not in part else 0
            )
            away = self.now_s - self.failing.get(pair, self.now_s) >= AWAY_S
            if self.random.random() < 0.1:
                self.measured.add(pair)
            rtt_ms = self.rtt_ms(name, other) if pair in self.measured else None
            yield Candidate(other, rtt_ms, away, not self.mends or silent_s < HEARD_S)

    def step(self):
        """A second: everybody chooses, in any order; dialled links come up after one to three seconds."""
        self.now_s += 1
        names = list(self.devices)
        self.random.shuffle(names)
        parts = {}
        for name in names:
            if name not in parts:
                parts |= dict.fromkeys(part := self.part_of(name), part)
        for name in names:
            mine = {a if b == name else b for a, b in self.links if name in (a, b)}
            found = list(self.candidates(name, parts[name]))
            chosen = self.devices[name].choose(found, mine, self.now_s * S)
            assert name not in chosen
            assert chosen <= self.knows[name]
            for other in self.dialled[name] - chosen:
                pair = tuple(sorted((name, other)))
                if pair in self.links and name not in self.dialled.get(other, ()):
                    self.links.discard(pair)
                self.failing.pop((name, other), None)
            self.dialled[name] = chosen
        for name in names:
            for other in self.dialled[name]:
                pair = tuple(sorted((name, other)))
                if pair in self.links:
                    self.failing.pop((name, other), None)
                elif not self.reach(name, other):
                    self.failing.setdefault((name, other), self.now_s)
                elif self.random.random() < 0.3:
                    self.links.add(pair)

    def run(self, seconds):
        for _ in range(seconds):
            self.step()

    def until_connected(self, seconds, among=None):
        for _ in range(seconds):
            if self.connected(among):
                return
            self.step()
        raise AssertionError(
            f"not whole after {seconds} s: {self.part_of(next(iter(self.devices)))}"
        )

    def degree(self, name):
        return sum(name in link for link in self.links)


KINDS = ["ring", "full", "nearest"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_whoever_comes_and_however_round_trips_move_the_graph_stays_whole(kind, seed):
    fleet = Fleet(seed, kind, 2 + seed * 5)
    fleet.until_connected(20)
    for moment in range(100):
        before = fleet.part_of("d000")
        if fleet.random.random() < 0.2:
            for _ in range(fleet.random.randrange(1, 4)):
                fleet.join(f"d{fleet.random.randrange(100):03}-{moment}")
        for name in sorted(fleet.devices):
            if fleet.random.random() < 0.3:
                x, y = fleet.place[name]
                fleet.place[name] = (x + fleet.random.gauss(0, 8), y + fleet.random.gauss(0, 8))
        fleet.step()
        assert fleet.connected(before), f"second {moment}"
    fleet.until_connected(20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_devices_die_by_the_dozen_and_the_rest_finds_together(kind, seed):
    fleet = Fleet(seed, kind, 30)
    fleet.run(20)
    for _ in range(4):
        for name in fleet.random.sample(sorted(fleet.devices), len(fleet.devices) // 3):
            fleet.die(name)
        fleet.until_connected(60)
        fleet.run(40)
        assert fleet.connected()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_cut_leaves_each_half_whole_and_is_mended_as_soon_as_it_heals(kind, seed):
    fleet = Fleet(seed, kind, 20)
    fleet.run(20)
    names = sorted(fleet.devices)
    half = fleet.random.sample(names, 10) if seed % 2 else names[:10]
    rest = [name for name in names if name not in half]
    fleet.cut(half)
    fleet.until_connected(40, half)
    fleet.until_connected(40, rest)
    fleet.run(60)
    assert fleet.connected(half)
    assert fleet.connected(rest)
    assert any(a in half and b in rest for a in half for b in fleet.dialled[a])
    fleet.cut([])
    fleet.until_connected(15)
    fleet.run(120)
    assert fleet.connected()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_where_nobody_knows_everybody_the_parts_still_grow_together(kind, seed):
    random = Random(seed)
    names = [f"d{number:03}" for number in range(20)]
    random.shuffle(names)
    known = {names[0]: []}
    for at, name in enumerate(names[1:], start=1):
        known[name] = random.sample(names[:at], min(at, random.randrange(1, 4)))
    fleet = Fleet(seed, kind, 20, known=known, mends=True)
    fleet.run(120)  # what was near first may be let go, and is missed once
    fleet.until_connected(20)
    for _ in range(100):
        fleet.step()
        assert fleet.connected(), "a mended graph is not let go again"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_two_fleets_grow_together_by_one_acquaintance(kind, seed):
    random = Random(seed)
    names = [f"d{number:03}" for number in range(24)]
    random.shuffle(names)
    halves = names[:12], names[12:]
    known = {name: list(half) for half in halves for name in half}
    known[names[0]].append(names[-1])
    fleet = Fleet(seed, kind, 24, known=known, mends=True)
    fleet.run(120)  # what was near first may be let go, and is missed once
    fleet.until_connected(20)
    for _ in range(100):
        fleet.step()
        assert fleet.connected(), "a mended graph is not let go again"


@pytest.mark.parametrize("seed", range(4))
def test_two_racks_whose_devices_are_near_each_other_only_are_one_graph(seed):
    fleet = Fleet(seed, "nearest", 20, near=3, far=0)
    for number, name in enumerate(sorted(fleet.devices)):
        fleet.place[name] = (10_000 * (number % 2), fleet.random.random())
    fleet.until_connected(20)
    fleet.run(100)
    assert fleet.connected()


@pytest.mark.parametrize("seed", range(2))
def test_degrees_stay_within_their_bounds(seed):
    fleet = Fleet(seed, "nearest", 40)
    for moment in range(150):
        fleet.step()
        for name, dialled in fleet.dialled.items():
            up = {other for other in dialled if tuple(sorted((name, other))) in fleet.links}
            assert len(up) <= 6 + MENDS_MAX + UNWANTED_MAX + 1
            assert len(dialled) <= len(up) + 6 + AWAY_KEPT_MAX + AWAY_ON_CIRCLE_MAX
        if moment % 50 == 49:
            fleet.die(fleet.random.choice(sorted(fleet.devices)))
            for name in fleet.devices:
                fleet.place[name] = (fleet.random.random() * 50, fleet.random.random() * 50)
    fleet.run(400)
    degrees = [fleet.degree(name) for name in fleet.devices]
    assert sum(degrees) / len(degrees) <= 12
    assert max(degrees) <= 30


def chosen(topology, names, links=(), now_s=0, **candidates):
    found = [candidates.get(name) or Candidate(name) for name in names]
    return topology.choose(found, links, now_s * S)


def test_static_dials_whoever_is_named():
    assert chosen(Topology("m", "static", Random(1)), "abz") == {"a", "b", "z"}


def test_a_ring_has_the_two_beside_it_around_the_end_too():
    names = "abcdefg"
    assert chosen(Topology("d", "ring", Random(1)), names.replace("d", "")) == {"c", "e"}
    assert chosen(Topology("g", "ring", Random(1)), names.replace("g", "")) == {"f", "a"}
    assert chosen(Topology("a", "ring", Random(1)), ["b"]) == {"b"}
    assert chosen(Topology("a", "ring", Random(1)), []) == set()


def test_full_is_everybody_up_to_its_bound_and_then_the_next_ones():
    names = [f"d{number:03}" for number in range(100)]
    assert len(chosen(Topology("a", "full", Random(1)), names[:30])) == 30
    assert chosen(Topology("d050x", "full", Random(1)), names) == set(names[51 : 51 + FULL_MAX])


def test_who_does_not_answer_is_dialled_on_beside_the_next_one():
    gone = {name: Candidate(name, away=True) for name in "bcdef"}
    ring = Topology("a", "ring", Random(1))
    assert chosen(ring, "bcdefgz", **gone) == {"b", "c", "d", "g", "z"}


def near(names, rtts):
    return {name: Candidate(name, rtt_ms) for name, rtt_ms in zip(names, rtts, strict=True)}


def test_nearest_takes_the_nearest_and_the_next_one_on_the_circle():
    topology = Topology("a", "nearest", Random(1), near=2, far=0)
    assert chosen(topology, "bcdef", **near("bcdef", [9, 8, 1, 7, 2])) == {"b", "d", "f"}


def test_far_links_are_drawn_once():
    names = [f"d{number:03}" for number in range(40)]
    topology = Topology("a", "nearest", Random(1), near=0, far=2)
    first = chosen(topology, names)
    assert len(first) == 3
    assert all(chosen(topology, names, first, now_s) == first for now_s in range(1, 100))


def test_a_link_that_has_not_measured_itself_yet_is_not_given_up():
    topology = Topology("a", "nearest", Random(1), near=2, far=0)
    first = chosen(topology, "bcdefg")
    others = {name: Candidate(name, 1.0) for name in "cdefg" if name not in first}
    assert chosen(topology, "bcdefg", "", 1, **others) == first


def test_a_little_nearer_is_not_near_enough():
    topology = Topology("a", "nearest", Random(1), near=1, far=0)
    assert chosen(topology, "bcd", **near("bcd", [50, 10, 20])) == {"b", "c"}
    assert chosen(topology, "bcd", "bc", **near("bcd", [50, 10, 9])) == {"b", "c"}
    assert chosen(topology, "bcd", "bc", **near("bcd", [50, 1.2, 0.3])) == {"b", "c"}
    assert chosen(topology, "bcd", "bc", **near("bcd", [50, 10, 5])) == {"b", "c", "d"}


def test_a_link_is_let_go_when_the_new_ones_are_up_and_a_while_has_passed():
    topology = Topology("a", "nearest", Random(1), near=1, far=0)
    release_s = RELEASE_MS // 1000
    first = near("bcd", [50, 10, 90])
    later = near("bcd", [50, 10, 1])
    assert chosen(topology, "bcd", "", 0, **first) == {"b", "c"}
    assert chosen(topology, "bcd", "bc", 1, **later) == {"b", "c", "d"}
    assert chosen(topology, "bcd", "bc", 1 + 10 * release_s, **later) == {"b", "c", "d"}
    assert chosen(topology, "bcd", "bcd", 2, **later) == {"b", "c", "d"}
    assert chosen(topology, "bcd", "bcd", 1 + release_s, **later) == {"b", "d"}


def test_whom_a_cut_took_is_dialled_on_up_to_a_bound():
    names = [f"d{number:03}" for number in range(40)]
    topology = Topology("a", "nearest", Random(1), near=16, far=8)
    before = chosen(topology, names)
    gone = {name: Candidate(name, away=True) for name in before}
    after = chosen(topology, names, **gone)
    assert len(after & before) <= AWAY_KEPT_MAX + AWAY_ON_CIRCLE_MAX
    assert len(after & before) >= AWAY_KEPT_MAX


def test_one_that_is_not_heard_of_is_dialled_and_its_link_is_kept():
    topology = Topology("a", "nearest", Random(1), near=0, far=0)
    deaf = {"m": Candidate("m", heard=False)}
    assert chosen(topology, "bmz", **deaf) == {"b", "m"}
    assert chosen(topology, "bmz", "bm", 1) == {"b", "m"}
    assert chosen(topology, "bmz", "bm", 1000) == {"b", "m"}
    assert chosen(topology, "bz", "b", 1001) == {"b"}
