"""Canaries: who goes first, who waits, who holds; and fleets in which each device sees something else."""

import math
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.models.rollout import FALLEN_MAX, ROUND_NS, SETTLE_NS, Rollout, Said

S = 1_000_000_000
WINDOW_S = 30.0
MANIFEST = 64 * "a"
NAMES = [f"d{number}" for number in range(10)]


def rollout(device="d0", share=0.2, *, now_ns=0):
    return Rollout(MANIFEST, share, WINDOW_S, device, now_ns)


def waiting(*names):
    return {name: Said("waiting") for name in names}


def canaries(share, names=NAMES, said=None, now_ns=SETTLE_NS):
    """Those who go first, each by its own machine."""
    going = set()
    for name in names:
        others = [other for other in names if other != name]
        told = said or {}
        heard = waiting(*others) | {one: each for one, each in told.items() if one != name}
        if rollout(name, share).look(others, heard, now_ns).state == "go":
            going.add(name)
    return going


@pytest.mark.parametrize(
    ("share", "count"), [(0.01, 1), (0.1, 1), (0.11, 2), (0.3, 3), (0.95, 10), (1.0, 10)]
)
def test_the_share_goes_first_rounded_up(share, count):
    assert len(canaries(share)) == count


def test_without_canaries_all_go_at_once_whatever_others_say():
    bad = {"d1": Said("failed", "does not load")}
    assert rollout(share=0.0).look(["d1"], bad, 0).state == "go"


def test_before_others_can_have_heard_of_it_nobody_goes():
    assert rollout().look([], {}, SETTLE_NS - 1).state == "waiting"


def test_a_device_alone_is_its_own_canary():
    assert rollout().look([], {}, SETTLE_NS).state == "go"


def test_devices_that_say_nothing_of_it_take_no_part():
    """Relays, and devices that run another model, would never get well."""
    assert rollout(share=0.01).look(NAMES[1:], {}, SETTLE_NS).state == "go"


def test_when_as_many_are_healthy_as_there_are_canaries_the_rest_goes():
    (first,) = canaries(0.1)
    healthy = {first: Said("active")}
    assert canaries(0.1, said=healthy) == set(NAMES)
    assert canaries(0.2, said=healthy) < set(NAMES)


def test_who_tries_it_already_is_a_canary_wherever_it_came_in_the_draw():
    (first,) = canaries(0.1)
    other = next(name for name in NAMES if name != first)
    assert canaries(0.1, said={other: Said("watched")}) == set()  # it has gone before


@pytest.mark.parametrize("state", ["failed", "rolled-back"])
def test_a_version_that_harmed_one_is_held_by_all(state):
    said = waiting(*NAMES[2:]) | {"d1": Said(state, "sample: differs")}
    turn = rollout(share=1.0).look(NAMES[1:], said, SETTLE_NS)
    assert turn == ("held", "d1 did not keep it: sample: differs")
    # It need not be alive any more.
    assert rollout(share=1.0).look(NAMES[2:], said, 99 * ROUND_NS).state == "held"


def test_what_harmed_one_is_held_though_that_one_says_something_else_later():
    device = rollout(share=1.0)
    seen = waiting(*NAMES[1:])
    held = device.look(NAMES[1:], seen | {"d1": Said("failed", "slow")}, SETTLE_NS)
    assert held.state == "held"
    assert device.look(NAMES[1:], seen, SETTLE_NS) == held


def test_a_canary_that_died_keeps_its_place_for_the_round_and_is_then_passed_over():
    (first,) = canaries(0.1)
    others = [name for name in NAMES if name != first]
    fallen = {first: Said("watched")}
    round_ns = ROUND_NS + round(WINDOW_S * S)
    device = rollout(others[0], 0.1)
    seen = waiting(*others[1:]) | fallen
    turn = device.look(others[1:], seen, SETTLE_NS)
    assert (turn.state, turn.reason) == ("waiting", f"for {first} to try it, round 1")
    turn = device.look(others[1:], seen, SETTLE_NS + round_ns)
    assert device.round == 2
    assert first not in turn.reason


def test_devices_that_fall_while_they_watch_it_hold_it_until_they_are_back():
    fallen = {f"d{number}": Said("watched") for number in range(1, 1 + FALLEN_MAX)}
    alive = NAMES[1 + FALLEN_MAX :]
    seen = waiting(*alive) | fallen
    turn = rollout(share=0.5).look(alive, seen, SETTLE_NS)
    assert turn == ("held", "d1, d2, d3 fell silent while they watched it")
    assert rollout(share=0.5).look(NAMES[1:], seen, SETTLE_NS).state != "held"


def test_a_reason_names_only_some():
    said = {f"d{number}": Said("failed", "x") for number in range(1, 9)}
    assert rollout().look([], said, 0).reason == "d1, d2, d3 and 5 more did not keep it: x"


# Fleets.

STEP_NS = 500_000_000
LATE_STEPS_MAX = 8
"""Four seconds from one device's word to another's eyes."""


@dataclass
class Device:
    """One device of a simulated fleet: what it says and when."""

    name: str
    boots_at: int
    fate: str
    """What becomes of it: fine, silent (never tries), slow (to fetch), dies (at `dies_at`)."""
    dies_at: int
    machine: Rollout | None = None
    words: list = field(default_factory=list)
    """(step, what it said), the newest last."""
    trying_until: int | None = None

    def say(self, step, state):
        if not self.words or self.words[-1][1] != state:
            self.words.append((step, state))

    def said(self, step):
        return next((state for at, state in reversed(self.words) if at <= step), None)

    def alive(self, step):
        return self.boots_at <= step and not (self.fate == "dies" and step >= self.dies_at)


class Town:
    """Devices on virtual time; word of one reaches each other after delays of their own."""

    def __init__(self, devices, share, seed, *, bad):
        self.devices, self.share, self.bad = devices, share, bad
        self.random = Random(seed)
        self.late = {
            (one.name, other.name): self.random.randrange(LATE_STEPS_MAX)
            for one in devices
            for other in devices
        }
        self.tried = set()
        self.step = 0

    def run(self, steps):
        for _ in range(steps):
            for device in self.devices:
                if device.alive(self.step):
                    self.turn(device)
            self.step += 1

    def turn(self, device):
        step = self.step
        if device.fate == "silent":
            return device.say(step, "waiting")
        if device.fate == "slow" and step < device.dies_at:
            return device.say(step, "missing")
        if device.machine is None:
            device.machine = rollout(device.name, self.share, now_ns=step * STEP_NS)
        if device.trying_until is not None:
            if step >= device.trying_until:
                device.say(step, "rolled-back" if self.bad else "active")
            return None
        turn = device.machine.look(*self.view(device), step * STEP_NS)
        if turn.state == "go":
            self.tried.add(device.name)
            device.trying_until = step + round(WINDOW_S * S / STEP_NS)
            return device.say(step, "watched")
        return device.say(step, turn.state)

    def view(self, device):
        alive, said = [], {}
        for other in self.devices:
            seen = self.step - self.late[other.name, device.name]
            if other is device or (word := other.said(seen)) is None:
                continue
            said[other.name] = Said(word)
            if other.alive(seen):
                alive.append(other.name)
        return alive, said

    def running(self):
        return {each.name for each in self.devices if each.said(self.step) in {"watched", "active"}}


def fates(*, dying):
    return st.sampled_from(["fine"] * 5 + ["silent", "slow"] + ["dies"] * dying)


def towns(*, dying=1):
    device = st.tuples(st.integers(0, 40), fates(dying=dying), st.integers(0, 400))
    return st.lists(device, min_size=1, max_size=12)


def town(drawn, share, seed, *, bad):
    devices = [Device(f"d{number}", *each) for number, each in enumerate(drawn)]
    return Town(devices, share, seed, bad=bad)


SHARES = st.sampled_from([0.01, 0.1, 0.25, 0.5, 1.0])
ROUND_STEPS = (ROUND_NS + round(WINDOW_S * S)) // STEP_NS


@given(drawn=towns(), share=SHARES, seed=st.integers(0, 99))
def test_a_good_version_reaches_everybody_who_lives_and_can(drawn, share, seed):
    """Unless so many died within the window that the version may be why."""
    fleet = town(drawn, share, seed, bad=False)
    fleet.run(500 + ROUND_STEPS * (len(drawn) + 2))
    fallen = [
        each for each in fleet.devices if each.fate == "dies" and each.said(fleet.step) == "watched"
    ]
    able = {each.name for each in fleet.devices if each.fate in {"fine", "slow"}}
    if len(fallen) < FALLEN_MAX:
        assert able <= fleet.running()


@given(drawn=towns(dying=0), share=SHARES, seed=st.integers(0, 99))
def test_a_bad_version_goes_no_farther_than_its_canaries(drawn, share, seed):
    fleet = town(drawn, share, seed, bad=True)
    fleet.run(500 + ROUND_STEPS * (len(drawn) + 2))
    rounds = max([each.machine.round for each in fleet.devices if each.machine], default=1)
    # Views differ only while devices boot: whoever sees nobody else yet is a canary of its own.
    count = math.ceil(len(drawn) * share)
    early = sum(each.boots_at <= LATE_STEPS_MAX for each in fleet.devices)
    assert not fleet.running()
    if early == len(drawn):
        assert len(fleet.tried) <= rounds * max(count, 1)
