"""The final object: its keys, what is null, and when the exit status is 0."""

import copy

import pytest

from agent.demo.ledger import Ledger
from agent.demo.recorder import Recorder
from agent.demo.records import Active, Applied, Decided, Judged, LinkChanged, Published, Ready
from agent.demo.result import Outcome, as_text, build, is_good

S = 1_000_000_000
MS = 1_000_000
DEVICES = ("a", "b")


@pytest.fixture
def recorder():
    recorder = Recorder(DEVICES, Ledger(DEVICES, 60 * S))
    tell = recorder.record
    for device, peer in (("a", "b"), ("b", "a")):
        tell(device, Ready(1 * S))
        tell(device, LinkChanged(peer, True, 1 * S))
        tell(device, Active("forecaster", "1", f"{device}1"))
        tell(device, Decided(5 * S, 2 * MS))
    recorder.ledger.linked(2 * S)
    tell("a", Published("a/1", 3 * S, 3 * S + MS))
    tell("b", Applied("a", "a/1", 3 * S + 4 * MS, False))
    fault = recorder.ledger.cut(frozenset("b"), 4 * S)
    tell("a", Published("a/2", 5 * S, 5 * S + MS))
    recorder.ledger.over(fault, 6 * S)
    tell("b", Applied("a", "a/2", 6 * S + 500 * MS, False))
    tell("b", Applied("a", "a/2", 7 * S, True))
    tell("b", Judged(3.0, 5.0, 4))
    tell("a", Judged(1.0, 7.0, 4))
    recorder.ledger.finish(12 * S)
    return recorder


@pytest.fixture
def outcome():
    return Outcome(
        command_ns=1 * S,
        began_ns=2 * S,
        ended_ns=12 * S,
        now_ns=12 * S,
        digests={"a": "d1", "b": "d1"},
        rss_mb={"a": 100.04, "b": 101.0},
        cpu_percent={"a": 10.0, "b": 11.06},
    )


def test_all_keys(recorder, outcome):
    result = build(DEVICES, recorder, outcome)
    latency = result.pop("latency_ms")
    assert result == {
        "devices": 2,
        "seconds": 10.0,
        "links": 1,
        "obstacles": {
            "published": 2,
            "delivered": 2,
            "expired": 0,
            "missing": 0,
            "duplicated": 0,
            "rebuilt": 1,
        },
        "late": {"count": 1, "max_ms": 1500.0},
        "faults": [{"kind": "cut", "at_s": 2.0, "healed_ms": 500.0}],
        "digests": {"a": "d1", "b": "d1"},
        "converged": True,
        "models": {
            "a": {"name": "forecaster", "version": "1", "digest": "a1"},
            "b": {"name": "forecaster", "version": "1", "digest": "b1"},
        },
        "forecast": {"count": 2, "mae": 0.5, "mae_persistence": 1.5},
        "rss_mb": {"a": 100.0, "b": 101.0},
        "cpu_percent": {"a": 10.0, "b": 11.1},
        "first_forecast_s": 4.0,
    }
    assert set(latency) == {"obstacle_to_state", "capture_to_decision"}
    assert latency["obstacle_to_state"]["p99"] == pytest.approx(4, rel=0.01)
    assert latency["capture_to_decision"]["p50"] == pytest.approx(2, rel=0.01)


def test_a_good_run(recorder, outcome):
    result = build(DEVICES, recorder, outcome)
    assert is_good(result)
    assert as_text(result).splitlines()[0] == (
        "obstacle events: 2 published, 2 delivered, 0 missing, 0 duplicated"
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("converged",), False),
        (("obstacles", "missing"), 1),
        (("obstacles", "duplicated"), 1),
        (("faults", 0, "healed_ms"), None),
        (("latency_ms", "capture_to_decision", "p99"), None),
        (("models", "b"), None),
        (("first_forecast_s",), None),
    ],
)
def test_not_a_good_run(recorder, outcome, path, value):
    result = copy.deepcopy(build(DEVICES, recorder, outcome))
    *parents, last = path
    inner = result
    for key in parents:
        inner = inner[key]
    inner[last] = value
    assert not is_good(result)


@pytest.mark.parametrize("digests", [{}, {"a": "d1"}, {"a": "d1", "b": "d2"}])
def test_converged_needs_the_same_digest_of_all(digests):
    assert not Outcome(0, digests=digests).converged(DEVICES)


def test_what_was_not_observed_is_null():
    empty = build(DEVICES, Recorder(DEVICES, Ledger(DEVICES, 60 * S)), Outcome(0))
    assert empty["obstacles"]["published"] is None
    assert empty["latency_ms"]["obstacle_to_state"] == {"p50": None, "p99": None}
    assert empty["forecast"] == {"count": 0, "mae": None, "mae_persistence": None}
    assert empty["models"] == empty["rss_mb"] == empty["digests"] == {"a": None, "b": None}
    assert empty["first_forecast_s"] is None
    assert not is_good(empty)


def test_a_device_that_was_killed_runs_nothing(recorder):
    recorder.forget("b")
    assert set(recorder.active) == recorder.ready == {"a"}
