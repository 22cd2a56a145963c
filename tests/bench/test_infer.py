"""`infer`, very small: its shape, that decisions are made with traffic beside, and its network's bytes."""

import asyncio

from agent.infer.tflite import find_runtime
from bench import infer
from bench.models_bad import KINDS, bad_file
from bench.networks import CLASSES, PICTURE, convolutions


def test_infer_measures_everything():
    found = asyncio.run(infer.run(quick=True)).json()
    assert found["problems"] == []
    assert set(found["ratios"]) == {
        "overhead_p50_us",
        "overhead_p99_us",
        "swap_p99_over_quiet",
        "decision_p99_over_quiet",
        "decision_p99_difference_ms",
        "snapshot_us",
        "features_us",
        "bad_models_survived",
    }
    assert all(value > 0 for key, value in found["ratios"].items() if "difference" not in key)
    busy = found["systems"]["5,000 messages a second"]
    assert busy["decisions"] > 0
    assert busy["messages_per_s"] > 0
    assert found["ratios"]["bad_models_survived"] == infer.QUICK.bad_models
    bad = found["systems"]["bad models"]
    assert bad["wrong_outputs"] == 0
    assert bad["inferences"] > bad["files"]


def test_bad_files_are_of_every_kind_and_the_same_each_time():
    good = convolutions(1)[:60_000]
    drawn = [bad_file(number, good) for number in range(len(KINDS))]
    assert tuple(kind for kind, _ in drawn) == KINDS
    assert drawn == [bad_file(number, good) for number in range(len(KINDS))]
    assert all(data != good for _, data in drawn)
    assert drawn != [bad_file(len(KINDS) + number, good) for number in range(len(KINDS))]


def test_the_network_is_the_same_each_time_and_another_for_another_seed():
    model = convolutions(1)
    assert 4_000_000 < len(model) < 4_200_000
    assert convolutions(1) == model != convolutions(2)
    assert len(convolutions(2)) == len(model)
    backend = find_runtime().load(model, 1)
    assert backend.input.shape == PICTURE
    assert backend.output.shape == (1, CLASSES)
