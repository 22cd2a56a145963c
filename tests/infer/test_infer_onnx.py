"""The ONNX backend: results against numpy, refusals, and a worker that takes both kinds of file."""

import asyncio
import random

import numpy as np
import pytest
import tiny_models
import tiny_onnx

pytest.importorskip("onnxruntime")  # 32-bit Raspberry Pi OS has no wheel

from agent.infer.backend import ModelRejected, NoRoom, RuntimeUnavailable, TensorInfo
from agent.infer.client import InferenceClient
from agent.infer.kinds import Kind
from agent.infer.onnx import find_runtime
from agent.infer.standby import ModelFile, StandbyClient
from bench.onnx_file import dense

DENSE = dense(tiny_models.WEIGHTS, tiny_models.BIAS)
X = tiny_models.features(1.0, -2.0, 3.0, 0.5)


def load(model, num_threads=1):
    return find_runtime().load(model, num_threads)


@pytest.mark.parametrize("rows", [1, "batch"])
def test_computes_what_numpy_computes(rows):
    backend = load(dense(tiny_models.WEIGHTS, tiny_models.BIAS, rows))
    assert backend.input == TensorInfo((1, 4), "float32")
    assert backend.output == TensorInfo((1, 3), "float32")
    np.testing.assert_allclose(backend.invoke(X), tiny_models.dense(X), rtol=1e-6)


def test_result_belongs_to_the_caller():
    backend = load(DENSE)
    first = backend.invoke(X)
    before = first.copy()
    backend.invoke(-X)
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"", "does not load"),
        (DENSE[:100], "does not load"),
        (tiny_models.read("dense"), "does not load"),
        (tiny_onnx.sum_of_two(), "has 2 input tensors"),
        (tiny_onnx.integers(), r"input is tensor\(int64\)"),
        (tiny_onnx.empty(), "empty shape"),
    ],
    ids=["nothing", "cut off", "a TFLite file", "two inputs", "integers", "empty"],
)
def test_what_does_not_fit_is_rejected(model, reason):
    with pytest.raises(ModelRejected, match=reason):
        load(model)


def test_damaged_files_are_rejected_or_run():
    rng = random.Random(5)
    rejected = 0
    for _ in range(300):
        damaged = bytearray(DENSE)
        for _ in range(8):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            backend = load(bytes(damaged))
            if backend.input.shape == (1, 4):
                backend.invoke(X)
        except ModelRejected:
            rejected += 1
    assert rejected > 50


def test_a_runtime_that_does_not_work_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(RuntimeUnavailable, match="ONNX Runtime does not work here"):
        find_runtime()


def test_one_worker_takes_both_kinds():
    async def scenario():
        async with InferenceClient() as client:
            info = await client.load(DENSE, tiny_models.sha256(DENSE), Kind.ONNX)
            assert (info.kind, info.runtime) == (Kind.ONNX, "onnxruntime")
            np.testing.assert_allclose(
                (await client.infer(X)).output, tiny_models.dense(X), rtol=1e-6
            )
            other = tiny_models.read("dense_other")
            await client.load(other, tiny_models.sha256(other))
            np.testing.assert_allclose(
                (await client.infer(X)).output, tiny_models.dense_other(X), rtol=1e-6
            )

    asyncio.run(scenario())


def test_no_room_for_the_first_file_is_no_reason_for_the_second(monkeypatch):
    def full(*_):
        raise OSError(12, "Cannot allocate memory")

    async def scenario():
        async with StandbyClient() as client:
            tflite = tiny_models.read("dense")
            files = {
                Kind.TFLITE: ModelFile(tflite, tiny_models.sha256(tflite)),
                Kind.ONNX: ModelFile(b"damaged", tiny_models.sha256(b"damaged")),
            }
            monkeypatch.setattr("agent.infer.wire.map_tensors", full)
            with pytest.raises(NoRoom):
                await client.prepare(files)

    asyncio.run(scenario())


def test_a_version_without_a_tflite_file_that_loads_runs_as_onnx():
    broken = tiny_models.read("unknown_operator")

    async def scenario():
        async with StandbyClient() as client:
            files = {
                Kind.TFLITE: ModelFile(broken, tiny_models.sha256(broken)),
                Kind.ONNX: ModelFile(DENSE, tiny_models.sha256(DENSE)),
            }
            version = await client.prepare(files)
            assert client.in_use is None
            client.use(version)
            assert version.info.kind is Kind.ONNX
            assert client.in_use == version.info
            assert client.reason == "edge_tpu is off"

    asyncio.run(scenario())
