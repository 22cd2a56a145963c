"""The TFLite backend in this process: results against numpy, refusals, the choice of a runtime."""

import importlib
import sys
import types

import numpy as np
import pytest
import tiny_models

from agent.infer import tflite
from agent.infer.backend import ModelRejected, RuntimeUnavailable, TensorInfo
from agent.infer.tflite import find_runtime

RUNTIME = find_runtime()


def load(name):
    return RUNTIME.load(tiny_models.read(name), 1)


def test_float_model_computes_what_numpy_computes():
    backend = load("dense")
    x = tiny_models.features(1.0, -2.0, 3.0, 0.5)
    assert backend.input == TensorInfo((1, 4), "float32")
    assert backend.output == TensorInfo((1, 3), "float32")
    np.testing.assert_allclose(backend.invoke(x), tiny_models.dense(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "zero_points"), [("dense_int8", (3, -5)), ("dense_uint8", (131, 123))]
)
def test_quantised_model_takes_and_gives_float32(name, zero_points):
    backend = load(name)
    dtype = name.removeprefix("dense_")
    assert backend.input == TensorInfo((1, 4), dtype, tiny_models.X_SCALE, zero_points[0])
    assert backend.output == TensorInfo((1, 3), dtype, tiny_models.Y_SCALE, zero_points[1])
    rng = np.random.default_rng(7)
    for _ in range(50):
        x = rng.uniform(-3, 3, (1, 4)).astype(np.float32)
        y = backend.invoke(x)
        assert y.dtype == np.float32
        # Half a step of each input through the largest row of weights, half a step of the output.
        on_grid = np.rint(x / tiny_models.X_SCALE) * tiny_models.X_SCALE
        np.testing.assert_allclose(
            y, tiny_models.dense(on_grid), atol=tiny_models.Y_SCALE / 2 + 1e-5
        )


def test_quantised_input_saturates():
    backend = load("dense_int8")
    largest = (127 - 3) * tiny_models.X_SCALE
    huge = backend.invoke(tiny_models.features(1e30, 0.0, 0.0, 0.0))
    np.testing.assert_array_equal(huge, backend.invoke(tiny_models.features(largest, 0, 0, 0)))


def test_result_belongs_to_the_caller():
    backend = load("dense")
    x = tiny_models.features(1.0, 2.0, 3.0, 4.0)
    first = backend.invoke(x)
    backend.invoke(x * 5)
    np.testing.assert_allclose(first, tiny_models.dense(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"", "not a TFLite file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "not a TFLite file"),
        (tiny_models.read("sum_of_two"), "2 input tensors"),
        (tiny_models.read("integers"), "int32"),
        (tiny_models.read("unknown_operator"), "does not load: .*edgetpu-custom-op"),
    ],
)
def test_model_that_does_not_fit_is_rejected(model, reason):
    with pytest.raises(ModelRejected, match=reason):
        RUNTIME.load(model, 1)


def test_probe_is_the_model_that_the_builder_makes():
    assert tiny_models.read("passes_through") == tflite.PROBE_MODEL


def test_runtime_that_imports_but_does_not_run_is_passed_over(monkeypatch):
    """As tflite-runtime 2.14 does beside numpy 2."""

    def broken(**_):
        raise AttributeError("_ARRAY_API not found")

    module = types.SimpleNamespace(Interpreter=broken)
    working = importlib.import_module(f"{RUNTIME.name}.interpreter")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", working)
    assert find_runtime().name == "tflite_runtime"


def test_no_runtime_at_all_says_what_was_tried(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    with pytest.raises(RuntimeUnavailable, match=r"ai_edge_litert.*tflite_runtime"):
        find_runtime()


@pytest.mark.tflite_runtime
def test_here_it_is_tflite_runtime_with_numpy_1():
    assert RUNTIME.name == "tflite_runtime"
    assert np.__version__.startswith("1.")


def test_committed_models_are_what_the_builder_makes():
    pytest.importorskip("ai_edge_litert", reason="the builder needs LiteRT's schema classes")
    builder = importlib.import_module("make_tiny_models")
    for file_name, model in builder.build_all().items():
        assert (tiny_models.FOLDER / file_name).read_bytes() == model, file_name
