"""Seeds that are told on every run of the tests, and that a seed tells one story wherever it is told."""

import json
import os
import subprocess
import sys

import pytest

from sim.story import Options, tell


def told_elsewhere(hash_seed):
    """The JSON of a run in a process of its own, without what depends on the machine."""
    arguments = ["--seed", "3", "--nodes", "5", "--seconds", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "sim", *arguments],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        check=False,
        timeout=50,
    )
    story = json.loads(done.stdout)
    assert story.pop("wall")
    assert done.returncode == bool(story["violations"])
    return story


def test_a_seed_tells_the_same_story_in_every_process():
    assert told_elsewhere(1) == told_elsewhere(2)


def test_without_faults_everything_arrives_and_nothing_is_odd():
    result = tell(Options(1, nodes=5, seconds=2, faults="none"))
    assert result.violations == []
    assert result.figures["acknowledged"] > 20
    assert result.stable_ms["1.0"] < 100
    assert "gaps" not in result.counts


@pytest.mark.parametrize("seed", [163, 198, 253, 404, 542, 5240, 20169, 30537, 32074, 40657])
def test_a_seed_that_once_broke_a_promise_keeps_it(seed):
    assert tell(Options(seed)).violations == []


def test_a_large_fleet_in_which_much_arrives_at_once_breaks_no_promise():
    result = tell(Options(7, nodes=60, seconds=1, faults="none", degree=6))
    assert result.violations == []
    assert result.stable_ms
