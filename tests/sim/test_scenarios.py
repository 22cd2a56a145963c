"""A scenario for each rule; it holds, and with its bug planted it fails."""

import pytest

from sim.plants import planted
from sim.scenarios import SCENARIOS
from sim.scene import Scene

SEEDS = range(3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_rule_holds(name, seed):
    scene = Scene(seed)
    SCENARIOS[name].tell(scene)
    assert scene.failures == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenario_can_fail(name):
    scene = Scene(0)
    with planted(SCENARIOS[name].BUG):
        try:
            SCENARIOS[name].tell(scene)
        except Exception as error:  # noqa: BLE001 - failing in any way is failing
            scene.failures.append(str(error))
    assert scene.failures
