"""`infer`, very small: its shape, that decisions are made with traffic beside, and its network's bytes."""

import asyncio

import numpy as np

from agent.infer.onnx import find_runtime as find_onnx
from agent.infer.tflite import find_runtime
from bench import infer
from bench.models_bad import KINDS, RUNTIMES, bad_file
from bench.networks import CLASSES, PICTURE, convolutions
from bench.onnx_file import pooled


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
    assert 0 < bad["onnx"] < bad["files"]


def test_bad_files_are_of_every_kind_for_each_runtime_and_the_same_each_time():
    good, count = convolutions(1)[:60_000], len(KINDS) * len(RUNTIMES)
    drawn = [bad_file(number, good) for number in range(count)]
    assert tuple(kind for kind, _ in drawn) == KINDS * len(RUNTIMES)
    assert drawn == [bad_file(number, good) for number in range(count)]
    assert all(data != good for _, data in drawn)
    assert len({data for _, data in drawn}) == count
    assert drawn != [bad_file(count + number, good) for number in range(count)]


def test_a_network_for_onnx_runtime_tells_inputs_apart():
    backend = find_onnx().load(pooled((1, 64, 1, 132), 4, 1), 1)
    assert (backend.input.shape, backend.output.shape) == ((1, 64, 1, 132), (1, 4))
    outputs = [backend.invoke(np.full(backend.input.shape, level, np.float32)) for level in (0, 1)]
    assert np.abs(outputs[0] - outputs[1]).min() > 0.01


def test_the_network_is_the_same_each_time_and_another_for_another_seed():
    model = convolutions(1)
    assert 4_000_000 < len(model) < 4_200_000
    assert convolutions(1) == model != convolutions(2)
    assert len(convolutions(2)) == len(model)
    backend = find_runtime().load(model, 1)
    assert backend.input.shape == PICTURE
    assert backend.output.shape == (1, CLASSES)
