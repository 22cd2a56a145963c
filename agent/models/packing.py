"""Makes a version of a model from its files: what they take and give, and what a sample brings about.

Decides by the files' own bytes what kind each is, reads shapes and quantisation with the runtime that is installed, and
runs the sample on the TFLite variant; those for an Edge TPU or ONNX Runtime are described and not tried, where nothing
here runs them. Assumes that the files are the operator's own: they are loaded into this process, which a damaged one
can end under an old runtime. On failure: `ModelUnusable`, with the way out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from agent.errors import ModelUnusable
from agent.infer.backend import InferenceError
from agent.infer.kinds import Kind
from agent.infer.tflite import FILE_IDENTIFIER, FILE_IDENTIFIER_AT, find_runtime
from agent.models.content import content_of
from agent.models.manifest import EXPECTED_MAX, Draft, Rollout, Sample, Tensor, Variant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.infer.backend import Backend, FloatArray, TensorInfo

__all__ = ["Described", "difference", "kind_of", "load", "pack"]

EDGETPU_OPERATOR: Final = b"edgetpu-custom-op"
STEPS_TOLERATED: Final = 3
"""Steps of an 8-bit output by which runtimes differ: measured, tflite-runtime 2.14 against LiteRT 2.3."""
SPAN_TOLERATED: Final = 0.02
"""Of a float output: this share of the span of what is expected. Guess."""


class Described(NamedTuple):
    """What an operator says of a version."""

    name: str
    version: str
    task: str
    rollout: Rollout
    low: float
    high: float
    seed: int
    tolerance: float | None
    """None: what runtimes differ by."""


def kind_of(data: bytes) -> Kind:
    """What a model's file is, by its bytes."""
    if data[FILE_IDENTIFIER_AT] != FILE_IDENTIFIER:
        return Kind.ONNX
    return Kind.EDGETPU if EDGETPU_OPERATOR in data else Kind.TFLITE


def load(data: bytes, what: str) -> Backend:
    """A TFLite model, ready to run.

    Raises:
        ModelUnusable: There is no runtime, or it does not take the file.
    """
    try:
        return find_runtime().load(data, 1)
    except InferenceError as error:
        raise ModelUnusable(
            f"{what}: {error.reason}; `flockmq doctor` says which runtime is here"
        ) from None


def pack(
    described: Described, contents: Iterable[tuple[str, bytes]]
) -> tuple[Draft, dict[Kind, bytes]]:
    """The draft of a version and its variants' bytes.

    Args:
        described: What the operator says.
        contents: Name and bytes of each file.

    Raises:
        ModelUnusable: A file cannot be used, two are of one kind, or none runs here.
    """
    files: dict[Kind, tuple[str, bytes]] = {}
    for name, data in contents:
        kind = kind_of(data)
        if kind in files:
            raise ModelUnusable(
                f"{name} and {files[kind][0]} are both {kind}; a version has one file of a kind"
            )
        files[kind] = (name, data)
    if Kind.TFLITE not in files:
        raise ModelUnusable(
            "there is no TFLite file for the processor among them; every version needs one, to fall back to and to try "
            "the sample on"
        )
    name, data = files[Kind.TFLITE]
    backend = load(data, name)
    try:
        draft = Draft(
            name=described.name,
            version=described.version,
            task=described.task,
            inputs=(_tensor("input", backend.input),),
            outputs=(_tensor("output", backend.output),),
            variants=tuple(
                Variant(kind=kind, content=content_of(data)) for kind, (_, data) in files.items()
            ),
            sample=_sample(described, backend),
            rollout=described.rollout,
        )
    except ValueError as error:
        raise ModelUnusable(f"{name}: {error}") from None
    return draft, {kind: data for kind, (_, data) in files.items()}


def difference(draft: Draft, backend: Backend) -> float:
    """How far the farthest output of the sample is from what is expected.

    Raises:
        ModelUnusable: The model takes or gives other shapes than the draft says, or does not run.
    """
    for what, tensor, seen in (
        ("takes", draft.inputs[0], backend.input),
        ("gives", draft.outputs[0], backend.output),
    ):
        if tensor.shape != seen.shape:
            raise ModelUnusable(
                f"the model {what} {seen.shape}, and its manifest says {tensor.shape}"
            )
    outputs = _run(backend, draft.sample)[:: draft.sample.stride]
    return float(np.max(np.abs(outputs - np.array(draft.sample.expected, np.float32))))


def _tensor(name: str, info: TensorInfo) -> Tensor:
    if info.dtype not in {"float32", "int8", "uint8"}:
        raise ModelUnusable(f"its {name} is {info.dtype}; float32, int8 and uint8 are taken")
    return Tensor(
        name=name,
        shape=info.shape,
        dtype=info.dtype,  # type: ignore[arg-type]  # one of the three
        scale=info.scale,
        zero_point=info.zero_point,
    )


def _sample(described: Described, backend: Backend) -> Sample:
    values = math.prod(backend.output.shape)
    sample = Sample(
        low=described.low,
        high=described.high,
        seed=described.seed,
        expected=(0.0,),
        tolerance=0.0,
        stride=-(-values // EXPECTED_MAX),
    )
    expected = _run(backend, sample)[:: sample.stride]
    if not np.all(np.isfinite(expected)):
        raise ModelUnusable(
            "the sample brings about infinities; set --low and --high to what it takes"
        )
    tolerance = described.tolerance
    if tolerance is None:
        step = backend.output.scale
        span = float(np.max(expected) - np.min(expected))
        tolerance = STEPS_TOLERATED * step if step else max(1e-4, SPAN_TOLERATED * span)
    return Sample(
        low=sample.low,
        high=sample.high,
        seed=sample.seed,
        expected=tuple(float(value) for value in expected),
        tolerance=tolerance,
        stride=sample.stride,
    )


def _run(backend: Backend, sample: Sample) -> FloatArray:
    """The outputs in a row that a sample's input brings about."""
    shape = backend.input.shape
    levels = np.frombuffer(sample.levels(math.prod(shape)), np.uint8).astype(np.float32)
    span = np.float32(sample.high) - np.float32(sample.low)
    features = (np.float32(sample.low) + levels * (span / np.float32(255))).reshape(shape)
    try:
        return np.asarray(backend.invoke(features), np.float32).ravel()
    except InferenceError as error:
        raise ModelUnusable(f"the sample does not run: {error.reason}") from None
