"""Makes a version of a model from its files: what they take and give, and what a sample brings about.

Decides by the files' own bytes what kind each is, reads shapes and quantisation with the runtime that is installed, and
runs the sample on the TFLite variant, or on the ONNX one where there is no other: what comes out is expected of all. An
ONNX variant is tried where ONNX Runtime is installed; one for an Edge TPU is described and not tried. Assumes that the
files are the operator's own: they are loaded into this process, which a damaged one can end under an old runtime. On
failure: `ModelUnusable`, with the way out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from agent.errors import ModelUnusable
from agent.infer.backend import InferenceError, RuntimeUnavailable
from agent.infer.kinds import Kind
from agent.infer.onnx import find_runtime as find_onnx
from agent.infer.tflite import FILE_IDENTIFIER, FILE_IDENTIFIER_AT, find_runtime
from agent.models.content import content_of
from agent.models.manifest import EXPECTED_MAX, Draft, Rollout, Sample, Tensor, Variant
from agent.models.trial import sample_features

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.infer.backend import Backend, FloatArray, TensorInfo

__all__ = ["Described", "difference", "kind_of", "load", "pack", "try_sample"]

EDGETPU_OPERATOR: Final = b"edgetpu-custom-op"
STEPS_TOLERATED: Final = 3
"""Steps of an 8-bit output by which runtimes differ: measured, tflite-runtime 2.14 against LiteRT 2.3."""
SPAN_TOLERATED: Final = 0.02
"""Of a float output: this share of the span of what is expected. Guess."""
REFERENCES: Final = (Kind.TFLITE, Kind.ONNX)
"""Variants whose outputs are what is expected of the others, what is preferred first."""
EDGETPU_UNTRIED: Final = (
    "not tried here: it was compiled for an Edge TPU; a device that has one tries the sample before it uses it, and "
    "`flockmq model status` shows what came of that, so publish with --canary-share first"
)
_DTYPES: Final[dict[str, Literal["float32", "int8", "uint8"]]] = {
    "float32": "float32",
    "int8": "int8",
    "uint8": "uint8",
}


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


def load(data: bytes, what: str, kind: Kind = Kind.TFLITE) -> Backend:
    """A model for the processor, ready to run.

    Raises:
        ModelUnusable: There is no runtime, or it does not take the file.
    """
    is_onnx = kind is Kind.ONNX
    try:
        return (find_onnx if is_onnx else find_runtime)().load(data, 1)
    except InferenceError as error:
        as_onnx = " is no TFLite file; as an ONNX file" if is_onnx else ""
        raise ModelUnusable(
            f"{what}{as_onnx}: {error.reason}; `flockmq doctor` says which runtime is here"
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
    reference = next((kind for kind in REFERENCES if kind in files), None)
    if reference is None:
        raise ModelUnusable(
            "there is no file for the processor among them, TFLite or ONNX; each version needs one, to fall back to "
            "and to try the sample on"
        )
    name, data = files[reference]
    backend = load(data, name, reference)
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


def try_sample(draft: Draft, kind: Kind, data: bytes, what: str) -> str:
    """Run the sample on a variant, where this machine can; what came of it, for people.

    Raises:
        ModelUnusable: The variant does not load or run, or what comes out is not what is expected.
    """
    if kind is Kind.EDGETPU:
        return EDGETPU_UNTRIED
    if kind is Kind.ONNX:
        try:
            find_onnx()
        except RuntimeUnavailable as error:
            return f"not tried here: {error.reason}"
    away, tolerance = difference(draft, load(data, what, kind)), draft.sample.tolerance
    if not away <= tolerance:
        raise ModelUnusable(
            f"{what}: the sample is off by {away:.3g}, and {tolerance:.3g} is tolerated; pack the version anew for "
            f"this runtime or, if the weights are the same, with --tolerance {1.2 * away:.2g}"
        )
    return f"sample off by {away:.3g} of {tolerance:.3g}"


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
    dtype = _DTYPES.get(info.dtype)
    if dtype is None:
        raise ModelUnusable(f"its {name} is {info.dtype}; {', '.join(_DTYPES)} are taken")
    return Tensor(
        name=name, shape=info.shape, dtype=dtype, scale=info.scale, zero_point=info.zero_point
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
    features = sample_features(sample, backend.input.shape)
    try:
        return np.asarray(backend.invoke(features), np.float32).ravel()
    except InferenceError as error:
        raise ModelUnusable(f"the sample does not run: {error.reason}") from None
