"""`bad_models_survived` of `infer`: model files that are none, offered one after the other to a device that infers.

Each is signed by an operator of the fleet, in a manifest that promises what the good version takes and gives, so that
nothing but the file stands between it and the device: cut short, made up of random bytes, overwritten in stretches,
with bits flipped, or a good network of another shape; five for TFLite, then five for ONNX Runtime. File number n is
drawn from seed n. Damage can be harmless: what loads in a worker beside, and gives there what the manifest's sample
expects, is no bad model; the next one is drawn.

A file is survived when the device has said that it does not take it, and goes on to infer with the good version:
with that one's outputs, to the last digit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from itertools import count
from random import Random
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from agent.demo.identities import identity_of, make_fleet
from agent.infer.backend import InferenceError
from agent.infer.client import InferenceClient
from agent.infer.kinds import Kind
from agent.infer.limits import Limits
from agent.infer.tflite import FILE_IDENTIFIER, find_runtime
from agent.models.content import content_of, sha256_of
from agent.models.manifest import Draft, Variant
from agent.models.package import write_package
from agent.models.packing import Described, pack
from agent.models.shipped import ModelFiles
from agent.models.trial import sample_features
from bench.models_device import GREY, MODEL
from bench.models_versions import Operator
from bench.networks import dense
from bench.onnx_file import HEAD, drawn, pooled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.result import Result
    from bench.stage import Role, Stage

__all__ = ["KINDS", "RUNTIMES", "bad_file", "offer_all"]

KINDS: Final = ("cut short", "random", "overwritten", "bits flipped", "another shape")
RUNTIMES: Final = (Kind.TFLITE, Kind.ONNX)
HEADS: Final = {Kind.TFLITE: b"\x1c\0\0\0" + FILE_IDENTIFIER, Kind.ONNX: HEAD}
"""What a file begins with."""
NETWORKS: Final[dict[Kind, Callable[[int, int, int], bytes]]] = {
    Kind.TFLITE: dense,
    Kind.ONNX: drawn,
}
BYTES_MAX: Final = 100_000
"""Of a random file: twice the good one."""
STRETCH_BYTES_MAX: Final = 512
STRETCHES_MAX: Final = 16
FLIPS_MAX: Final = 64
WIDTH_MAX: Final = 512
PER_S: Final = 20.0
"""Inferences a second of the device."""
ORACLE: Final = Limits(load_timeout_s=5.0)
WITHIN_S: Final = 60.0
"""A file that hangs its worker takes 30 s."""


class _Good(NamedTuple):
    """What is damaged, and what is said of it."""

    draft: Draft
    data: bytes


def runtime_of(number: int) -> Kind:
    """What file `number` is for."""
    return RUNTIMES[number // len(KINDS) % len(RUNTIMES)]


def bad_file(number: int, good: bytes) -> tuple[str, bytes]:
    """What kind file `number` is, and its bytes; `good` is for the same runtime."""
    random, kind = Random(number), KINDS[number % len(KINDS)]
    if kind == "cut short":
        return kind, good[: random.randrange(1, len(good))]
    if kind == "random":
        noise = random.randbytes(random.randrange(1, BYTES_MAX))
        return kind, HEADS[runtime_of(number)] + noise if random.random() < 0.5 else noise
    if kind == "another shape":
        inputs, outputs = random.randrange(1, WIDTH_MAX), random.randrange(1, WIDTH_MAX)
        return kind, NETWORKS[runtime_of(number)](inputs, outputs, number)
    data = bytearray(good)
    if kind == "overwritten":
        for _ in range(random.randrange(1, STRETCHES_MAX)):
            length = random.randrange(1, min(STRETCH_BYTES_MAX, len(data) // 4))
            at = random.randrange(len(data) - length)
            data[at : at + length] = random.randbytes(length)
    else:
        for _ in range(random.randrange(1, FLIPS_MAX)):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return kind, bytes(data)


async def offer_all(stage: Stage, files: int, result: Result) -> None:
    """Offer so many bad files to a device, and put into `result` what became of it."""
    logging.getLogger("agent.infer.client").setLevel(logging.ERROR)  # it tells of each file
    folder, fleet = stage.directory("versions"), stage.directory("fleet")
    make_fleet(fleet, "bench", ["victim"])
    package = ModelFiles().package("forecaster", "1")
    good = package.read(Kind.TFLITE)
    draft = msgspec.structs.replace(package.draft, name=MODEL)
    write_package(folder / "good", draft, {Kind.TFLITE: good})
    backend = find_runtime().load(good, 1)
    expected = backend.invoke(np.full(backend.input.shape, GREY, np.float32)).ravel()
    victim = await stage.role(
        "victim",
        "bench.models_victim:Victim",
        device="victim",
        state=str(stage.directory("state")),
        identity=str(identity_of(fleet, "victim")),
        models=str(folder),
        rate=PER_S,
    )
    operator = Operator(fleet)
    await victim.ask("publish", manifest=operator.sign(draft).decode())
    await victim.ask("active", sha256=sha256_of(good), within_s=WITHIN_S)
    await victim.ask("expect", outputs=[round(float(value), 3) for value in expected])
    goods = {Kind.TFLITE: _Good(draft, good), Kind.ONNX: _good_onnx(draft)}
    offered: Counter[str] = Counter()
    of_onnx: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    harmless = 0
    async with InferenceClient(ORACLE) as oracle:
        for number in count():
            if offered.total() == files:
                break
            runtime = runtime_of(number)
            as_if = goods[runtime]
            kind, data = bad_file(number, as_if.data)
            if await _agrees(oracle, as_if.draft, data, runtime):
                harmless += 1
                continue
            offered[kind] += 1
            of_onnx[kind] += runtime is Kind.ONNX
            told = await _offer(victim, operator, folder, as_if.draft, number, data)
            if told["survived"]:
                survived[kind] += 1
            else:
                result.problems.append(f"file {number}, {runtime}, {kind}: {told}")
    counted = await victim.ask("counted")
    for kind in KINDS:
        result.add(kind, files=offered[kind], onnx=of_onnx[kind], survived=survived[kind])
    result.add(
        "bad models",
        files=offered.total(),
        onnx=of_onnx.total(),
        survived=survived.total(),
        harmless=harmless,
        workers_lost=counted["workers_lost"],
        inferences=counted["inferences"],
        wrong_outputs=counted["wrong_outputs"],
        longest_pause_ms=counted["longest_pause_ms"],
    )
    result.ratios["bad_models_survived"] = survived.total()


async def _offer(
    victim: Role, operator: Operator, folder: Path, draft: Draft, number: int, data: bytes
) -> dict[str, Any]:
    """Sign a file, put it beside the device, and publish it there."""
    content = await asyncio.to_thread(content_of, data)
    runtime = runtime_of(number)
    variants = (Variant(kind=runtime, content=content),)
    bad = msgspec.structs.replace(draft, version=f"bad-{number}", variants=variants)
    write_package(folder / bad.version, bad, {runtime: data})
    told: dict[str, Any] = await victim.ask(
        "offer", manifest=operator.sign(bad).decode(), version=bad.version, within_s=WITHIN_S
    )
    await asyncio.to_thread(rmtree, folder / bad.version)
    return told


def _good_onnx(draft: Draft) -> _Good:
    """A network for ONNX Runtime that takes and gives as much."""
    takes, gives = draft.inputs[0].shape, draft.outputs[0].shape
    data = pooled(takes, gives[-1], 1)
    described = Described(MODEL, "onnx", "a benchmark", draft.rollout, 0.0, 1.0, 1, tolerance=None)
    return _Good(pack(described, [("a network", data)])[0], data)


async def _agrees(oracle: InferenceClient, draft: Draft, data: bytes, runtime: Kind) -> bool:
    """Whether a file does what its manifest says after all."""
    try:
        info = await oracle.load(data, sha256_of(data), runtime)
        if (info.input.shape, info.output.shape) != (draft.inputs[0].shape, draft.outputs[0].shape):
            return False
        features = sample_features(draft.sample, info.input.shape)
        inference = await oracle.infer(features)
    except InferenceError:
        return False
    return draft.sample.agrees(inference.output.ravel().tolist())
