"""Features on the device, and forecasts held against what came."""

import numpy as np
import pytest

from agent import forecast
from agent.errors import ModelMissing
from agent.forecast import Judge, Judged
from agent.infer.features import INPUT_SHAPE
from agent.messages import Reading
from agent.sensors.sensor import Observation
from agent.snapshot import Heard
from agent.world import World


def reading(tick_s, standing=3):
    return Reading(
        tick_s=tick_s, phase=0, standing=(standing,) * 4, vehicles=(5,) * 4, speed_mps=(2.0,) * 4, at_ms=0
    )  # fmt: skip


def world(**readings):
    snapshot = World("s", "j-1-1").snapshot()
    heard = {(name, "junction"): Heard(value, 5, 0) for name, value in readings.items()}
    return type("Snapshot", (), {"readings": heard, "of": snapshot})()


def filled(features):
    out = np.full(INPUT_SHAPE, np.nan, dtype=np.float32)
    features.fill(out)
    assert np.isfinite(out).all()
    return out


def test_an_upstream_junction_counts_while_it_speaks_and_is_unknown_when_it_is_silent():
    features = forecast.make("j-1-1", {})
    features.note(Observation(0, reading(100.0), ()), world())
    alone = filled(features)
    assert features.state_age_ns() == 0
    features.note(Observation(0, reading(101.0), ()), world(**{"j-0-1": reading(100.0)}))
    together = filled(features)
    assert (alone[0, -1] != together[0, -1]).any()
    assert features.state_age_ns() > 0
    features.note(Observation(0, reading(110.0), ()), world(**{"j-0-1": reading(100.0)}))
    assert (filled(features)[0, -1] == alone[0, -1]).all()


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"junction": "nowhere"}, "has no junction"), ({"network": "/nonexistent"}, "cannot be read")],
)
def test_a_road_network_that_is_not_there_is_said_so(options, reason):
    with pytest.raises(ModelMissing, match=reason):
        forecast.make("j-1-1", options)


def test_a_file_that_is_no_road_network_is_said_so(tmp_path):
    path = tmp_path / "network.json"
    path.write_text("[1, 2]")
    with pytest.raises(ModelMissing, match="not a road network"):
        forecast.make("j-1-1", {"network": str(path)})


def test_a_forecast_is_judged_at_its_moment_only():
    judge = Judge(30.0)
    judge.forecast(10.0, [1, 1], [2.5, 4.0])
    judge.forecast(11.0, [0, 0], [1.0, 1.0])
    assert judge.came(39.0, [3, 3]) is None
    assert judge.came(40.0, [3, 3]) == Judged(0.5 + 1.0, 2 + 2, 2)
    assert judge.came(45.0, [3, 3]) is None  # the moment of the second one was missed
