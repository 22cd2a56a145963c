"""Two hundred seeds, and the bugs that are planted: the checkers catch each of them."""

import pytest

from sim.plants import PLANTS
from sim.story import Options, tell
from sim.sweep import sweep

SEEDS = 20
SHORT = Options(0)
SELDOM = {
    "conflated": Options(0, faults="clog,burst"),
    "died: disk": Options(0, faults="restart"),
    "died: power": Options(0, faults="restart"),
    "dropped": Options(0, faults="tight,clog,burst"),
    "gaps": Options(0, faults="tight,restart,partition"),
    "held_back": Options(0, faults="clock", seconds=10.0),
    "incarnation_raised": Options(0, faults="restart"),
    "suspended": Options(0, faults="clog,burst"),
}
"""What does not happen in every twenty seeds, and where it does."""


@pytest.mark.parametrize("first", range(0, 10 * SEEDS, SEEDS))
def test_two_hundred_seeds_break_no_promise(first):
    done = sweep(SHORT, range(first, first + SEEDS))
    assert [(r.options.seed, r.violations[0]) for r in done.failed] == []
    assert set(done.lacking) <= set(SELDOM)


@pytest.mark.parametrize("name", SELDOM)
def test_what_happens_seldom_happens(name):
    for seed in range(60):
        done = sweep(SELDOM[name], [seed])
        assert not done.failed
        if done.counts[name]:
            return
    pytest.fail(f"{name} never happened")


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_caught(name):
    plant = PLANTS[name]
    for seed in range(25):
        options = Options(seed, faults=plant.faults, rate=plant.rate)
        if tell(Options(seed, faults=plant.faults, rate=plant.rate, plant=name)).violations:
            assert tell(options).violations == []
            return
    pytest.fail(f"nobody noticed that {plant.says}")
