"""The inference client with a real worker: results, swaps, refusals."""

import asyncio
import random
from contextlib import asynccontextmanager, nullcontext
from io import BytesIO

import numpy as np
import pytest
import tiny_models
from processes import on_every_start

from agent.infer.backend import ModelRejected, NoRoom
from agent.infer.client import InferenceClient
from agent.infer.limits import Limits
from agent.infer.records import Busy, InputRefused, NoModel

X = tiny_models.features(1.0, -2.0, 3.0, 0.5)
DENSE = tiny_models.read("dense")
OTHER = tiny_models.read("dense_other")
WIDE = tiny_models.read("dense_wide")
COMPUTES = {
    tiny_models.sha256(DENSE): tiny_models.dense,
    tiny_models.sha256(OTHER): tiny_models.dense_other,
    tiny_models.sha256(WIDE): tiny_models.dense_wide,
}


async def load(client, model):
    return await client.load(model, tiny_models.sha256(model))


def assert_computes(inference, x):
    expected = COMPUTES[inference.model.sha256](x)
    np.testing.assert_allclose(inference.output, expected, rtol=1e-5)


@asynccontextmanager
async def client_with_dense(**limits):
    async with InferenceClient(Limits(**limits)) as client, asyncio.timeout(45):
        await load(client, DENSE)
        yield client


def test_infers_what_numpy_computes():
    async def scenario():
        async with client_with_dense() as client:
            model = client.model
            assert model.sha256 == tiny_models.sha256(DENSE)
            assert model.model_bytes == len(DENSE)
            assert (model.input.shape, model.output.shape) == ((1, 4), (1, 3))
            first = await client.infer(X)
            second = await client.infer(X * 2)
            assert_computes(first, X)
            assert_computes(second, X * 2)
            assert first.invoke_ns > 0
            statistics = client.statistics()
            assert statistics.inferences == 2
            assert statistics.models_loaded == statistics.workers_started == 1
            assert statistics.runtime in {"ai_edge_litert", "tflite_runtime"}
        assert client.statistics().worker_pid is None

    asyncio.run(scenario())


def test_runs_on_uvloop():
    uvloop = pytest.importorskip("uvloop")

    async def scenario():
        async with client_with_dense() as client:
            assert_computes(await client.infer(X), X)

    uvloop.run(scenario())


@pytest.mark.parametrize("name", ["dense_int8", "dense_uint8"])
def test_quantised_model_looks_like_a_float_model(name):
    async def scenario():
        async with InferenceClient() as client:
            info = await load(client, tiny_models.read(name))
            assert info.input.scale == tiny_models.X_SCALE
            output = (await client.infer(X)).output
            assert output.dtype == np.float32
            np.testing.assert_allclose(output, tiny_models.dense(X), atol=tiny_models.Y_SCALE)

    asyncio.run(scenario())


def test_no_inference_is_lost_while_models_are_swapped():
    """Shapes change with the model, so whatever runs must fit the model that it reports."""

    async def stream(client, seen, swapped):
        rng = np.random.default_rng(3)
        after = 0
        while after < 50:
            x = None

            def fill(into):
                nonlocal x
                into[...] = rng.uniform(-2, 2, into.shape)
                x = into.copy()

            _, inference = await client.infer_filled(fill)
            assert_computes(inference, x)
            seen.append(inference.model.sha256)
            after += swapped.is_set()

    async def scenario():
        async with client_with_dense() as client, asyncio.TaskGroup() as group:
            seen, swapped = [], asyncio.Event()
            group.create_task(stream(client, seen, swapped))
            for model in (OTHER, WIDE, DENSE, WIDE, OTHER):
                await load(client, model)
            swapped.set()
        # Turns are fair: between two swaps at least one of the stream's inferences ran.
        assert list(dict.fromkeys(seen)) == list(COMPUTES)
        statistics = client.statistics()
        assert statistics.inferences == len(seen)
        assert statistics.inferences_failed == statistics.workers_lost == 0
        assert statistics.models_loaded == 6

    asyncio.run(scenario())


def bad_models():
    rng = random.Random(11)
    yield "empty", b""
    yield "text", b"this is not a model\n" * 40
    yield "other_format", b"\x89PNG\r\n\x1a\n" + rng.randbytes(500)
    yield "random", rng.randbytes(4) + b"TFL3" + rng.randbytes(500)
    yield "random_head", DENSE[:8] + rng.randbytes(120) + DENSE[128:]
    for length in (6, 20, 60, 108, 240):
        yield f"truncated_{length}", DENSE[:length]
    for name in ("sum_of_two", "integers", "unknown_operator"):
        yield name, tiny_models.read(name)


@pytest.mark.parametrize("bad", [pytest.param(m, id=name) for name, m in bad_models()])
def test_model_that_does_not_load_is_rejected_and_the_old_one_answers(bad):
    """With tflite-runtime several of these crash the worker; the outcome is the same."""

    async def scenario():
        async with client_with_dense(load_timeout_s=5) as client:
            with pytest.raises(ModelRejected):
                await load(client, bad)
            assert_computes(await client.infer(X), X)
            assert client.model.sha256 == tiny_models.sha256(DENSE)
            statistics = client.statistics()
            assert (statistics.models_loaded, statistics.models_rejected) == (1, 1)
            assert_computes(await client.infer(X), X)
            await load(client, OTHER)
            assert_computes(await client.infer(X), X)

    asyncio.run(scenario())


def test_model_with_another_digest_never_reaches_the_worker():
    flipped = bytearray(OTHER)
    flipped[200] ^= 1

    async def scenario():
        async with client_with_dense() as client:
            with pytest.raises(ModelRejected, match="digest"):
                await client.load(bytes(flipped), tiny_models.sha256(OTHER))
            assert_computes(await client.infer(X), X)
            assert client.statistics().workers_started == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("limit", "reason"),
    [({"model_bytes_max": len(DENSE) - 1}, "516 bytes"), ({"tensor_bytes_max": 15}, "16 bytes")],
)
def test_model_above_a_limit_is_rejected(limit, reason):
    async def scenario():
        async with InferenceClient(Limits(**limit)) as client:
            with pytest.raises(ModelRejected, match=reason):
                await load(client, DENSE)
            with pytest.raises(NoModel):
                await client.infer(X)

    asyncio.run(scenario())


def test_no_room_in_shared_memory_is_no_fault_of_the_model(monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    class Half(nullcontext):
        def write(self, data):
            return self.enter_result.write(data[: len(data) // 2])

        def __enter__(self):
            return self

    async def scenario():
        async with client_with_dense() as client:
            monkeypatch.setattr("agent.infer.wire.nameless_file", full)
            with pytest.raises(NoRoom, match="No space left"):
                await load(client, OTHER)
            monkeypatch.setattr("agent.infer.wire.nameless_file", lambda: Half(BytesIO()))
            with pytest.raises(NoRoom, match="No space left"):
                await load(client, OTHER)
            assert_computes(await client.infer(X), X)

    asyncio.run(scenario())


def test_no_room_for_its_tensors_is_no_fault_of_the_model(monkeypatch, tmp_path):
    full = tmp_path / "full"
    code = f"""
import os
from agent.infer import wire
reserve = wire.reserve
def reserved(*arguments):
    if os.path.exists({str(full)!r}):
        raise OSError(28, "No space left on device")
    reserve(*arguments)
wire.reserve = reserved
"""
    on_every_start(monkeypatch, tmp_path, code)

    async def scenario():
        async with client_with_dense() as client:
            full.touch()
            with pytest.raises(NoRoom, match="No space left"):
                await load(client, OTHER)
            assert_computes(await client.infer(X), X)
            full.unlink()
            await load(client, OTHER)

    asyncio.run(scenario())


def test_no_room_to_look_at_what_the_worker_has_loaded_leaves_the_model_before(monkeypatch):
    def full(*_):
        raise OSError(12, "Cannot allocate memory")

    async def scenario():
        async with client_with_dense() as client:
            with monkeypatch.context() as patch:
                patch.setattr("agent.infer.wire.map_tensors", full)
                with pytest.raises(NoRoom, match="Cannot allocate memory"):
                    await load(client, OTHER)
            assert_computes(await client.infer(X), X)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "x",
    [
        tiny_models.features(1.0, 2.0),
        tiny_models.features(1.0, 2.0, 3.0, np.nan),
        tiny_models.features(1.0, 2.0, 3.0, -np.inf),
        tiny_models.features(1.0, 2.0, np.inf, -np.inf),
    ],
)
def test_features_that_do_not_fit_are_refused_before_they_run(x):
    async def scenario():
        async with client_with_dense() as client:
            with pytest.raises(InputRefused):
                await client.infer(x)
            assert_computes(await client.infer(X), X)
            assert client.statistics().inferences == 1
            assert client.statistics().inferences_failed == 0

    asyncio.run(scenario())


def test_finite_features_and_outputs_pass_though_their_sums_are_not():
    x = tiny_models.features(2e38, 2e38, 0.0, 0.0)

    async def scenario():
        async with client_with_dense() as client:
            assert_computes(await client.infer(x), x)

    asyncio.run(scenario())


def test_fill_runs_when_the_turn_has_come_and_its_error_comes_out():
    async def scenario():
        async with client_with_dense() as client:

            def fill(into):
                into[...] = X
                return "made of this"

            filled, inference = await client.infer_filled(fill)
            assert filled == "made of this"
            assert_computes(inference, X)

            def fail(into):
                raise KeyError(into.shape)

            with pytest.raises(KeyError):
                await client.infer_filled(fail)
            assert_computes(await client.infer(X), X)

    asyncio.run(scenario())


def test_concurrent_callers_take_turns_and_too_many_are_refused():
    async def scenario():
        async with client_with_dense(callers_waiting_max=3) as client:
            inputs = [X * factor for factor in range(5)]
            results = await asyncio.gather(*map(client.infer, inputs), return_exceptions=True)
            assert isinstance(results[4], Busy)
            for x, inference in zip(inputs[:4], results[:4], strict=True):
                assert_computes(inference, x)

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["invoke_timeout_s", "model_bytes_max"])
def test_limit_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})
