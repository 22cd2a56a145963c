"""The TFLite backend: LiteRT where there is a wheel for it, tflite-runtime elsewhere.

Decided here: LiteRT first, because it supports current Pythons and numpy 2 and rejects damaged
files where tflite-runtime 2.14 crashes; tflite-runtime for 32-bit Raspberry Pi OS. Both have the
same `Interpreter`, so this module is the only one that knows their names.
Assumed: one input, one output or the four of a detection model (`detection.py`), fixed shapes, float32 or quantised per
tensor to 8 bits.
Failure: a runtime is tried by running a model of 192 bytes, since tflite-runtime beside numpy 2
imports without complaint and fails at the first interpreter. What does not fit is ModelRejected.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.infer import detection
from agent.infer.backend import (
    Backend,
    InvokeFailed,
    ModelRejected,
    Runtime,
    RuntimeUnavailable,
    TensorInfo,
    first_line,
)

if TYPE_CHECKING:
    from agent.infer.backend import FloatArray

__all__ = ["TfliteBackend", "find_module", "find_runtime", "preload"]

RUNTIMES: Final = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")

FILE_IDENTIFIER: Final = b"TFL3"
FILE_IDENTIFIER_AT: Final = slice(4, 8)

PROBE_MODEL: Final = base64.b64decode(
    "CAAAAFRGTDPC////FAAAACAAAAAoAAAApAAAAAMAAAABAAAACAAAAAQABAAEAAAABAAAAHRpbnkAAAAAAQAA"
    "ABQAAAAAAA4AGAAUABAADAAIAAQADgAAABQAAAAcAAAAHAAAACAAAAAkAAAABAAAAG1haW4AAAAAAAAAAAEA"
    "AAAAAAAAAQAAAAAAAAABAAAAEAAAAAwADAAIAAAAAAAEAAwAAAAIAAAADAAAAAEAAAB4AAAAAQAAAAEAAAAA"
    "AAAA"
)
"""A model without operators: one float32 passes through. Made by the tests' model builder."""


def find_runtime() -> Runtime:
    """Returns the first runtime that runs a model. Raises RuntimeUnavailable."""
    module_name, interpreter_class = find_module()
    return Runtime(module_name.partition(".")[0], partial(TfliteBackend, interpreter_class))


def preload() -> None:
    """Imports the first module there is, so that a fork has it. No `Interpreter` is made: that may start threads."""
    for module_name in RUNTIMES:
        # Whoever needs it meets the same, and tells it.
        with contextlib.suppress(Exception):
            importlib.import_module(module_name)
            return


def find_module() -> tuple[str, Any]:
    """Returns the name and the `Interpreter` of the first module that runs a model. Raises RuntimeUnavailable."""
    problems = []
    for module_name in RUNTIMES:
        try:
            interpreter_class = importlib.import_module(module_name).Interpreter
            probe = TfliteBackend(interpreter_class, PROBE_MODEL, 1)
            probe.invoke(np.zeros(probe.input.shape, np.float32))
        except Exception as problem:  # noqa: BLE001 - a mismatched binary wheel fails in any way
            problems.append(f"{module_name}: {type(problem).__name__}: {problem}")
        else:
            return module_name, interpreter_class
    raise RuntimeUnavailable("no TFLite runtime works here; " + "; ".join(problems))


class TfliteBackend(Backend):
    """One model in one interpreter.

    `num_threads` above the number of cores is ruinous in tflite-runtime (178 ms instead of 40 ms
    on two cores, measured). Raises ModelRejected.
    """

    def __init__(self, interpreter_class: Any, model: bytes, num_threads: int) -> None:
        if model[FILE_IDENTIFIER_AT] != FILE_IDENTIFIER:
            raise ModelRejected("is not a TFLite file")
        try:
            self._interpreter = interpreter_class(model_content=model, num_threads=num_threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, MemoryError) as problem:
            raise ModelRejected(f"does not load: {first_line(problem)}") from problem
        inputs = self._interpreter.get_input_details()
        if len(inputs) != 1:
            raise ModelRejected(f"has {len(inputs)} input tensors; exactly one is taken")
        self._input_index, self.input = _described("input", inputs[0])
        self._outputs = _outputs(self._interpreter.get_output_details())
        if len(self._outputs) == 1:
            self.output = self._outputs[0][1]
        else:  # the rows of a detection model
            (_, boxes), *_ = self._outputs
            self.output = TensorInfo((*boxes.shape[:2], detection.COLUMNS), "float32")

    def invoke(self, features: FloatArray) -> FloatArray:
        """Runs one inference; see Backend.invoke."""
        try:
            # Copies, not tensor() views: faster for small tensors, and a view that is still
            # alive makes the next invoke fail.
            self._interpreter.set_tensor(self._input_index, _quantise(features, self.input))
            self._interpreter.invoke()
            outputs = [
                _dequantise(self._interpreter.get_tensor(index), tensor)
                for index, tensor in self._outputs
            ]
        except (ValueError, RuntimeError) as problem:
            raise InvokeFailed(first_line(problem)) from problem
        return outputs[0] if len(outputs) == 1 else detection.join(*outputs)


def _outputs(details: list[dict[str, Any]]) -> list[tuple[int, TensorInfo]]:
    """Returns index and description of the one output, or of a detection model's four. Raises ModelRejected."""
    if len(details) == 1:
        return [_described("output", details[0])]
    order = detection.outputs_of([tuple(map(int, detail["shape"])) for detail in details])
    if order is None:
        raise ModelRejected(
            f"has {len(details)} output tensors; one is taken, or the four of a detection model"
        )
    return [_described("output", details[number]) for number in order]


def _described(kind: str, detail: dict[str, Any]) -> tuple[int, TensorInfo]:
    """Returns index and description of a tensor. Raises ModelRejected."""
    dtype = np.dtype(detail["dtype"]).name
    shape = tuple(int(length) for length in detail["shape"])
    scale, zero_point = detail["quantization"]
    if not all(length > 0 for length in shape):
        raise ModelRejected(f"{kind} has the empty shape {shape}")
    if dtype == "float32":
        return detail["index"], TensorInfo(shape, dtype)
    if dtype not in {"int8", "uint8"}:
        raise ModelRejected(f"{kind} is {dtype}; float32, int8 and uint8 are taken")
    # Also where the file quantises per channel, which no runtime does for inputs and outputs.
    if not (math.isfinite(scale) and scale > 0):
        raise ModelRejected(f"{kind} is {dtype} without a scale for the whole tensor")
    return detail["index"], TensorInfo(shape, dtype, float(scale), int(zero_point))


def _quantise(features: FloatArray, tensor: TensorInfo) -> Any:
    """Turns float32 into what the tensor holds; values out of its range saturate."""
    if tensor.scale == 0:
        return features
    bounds = np.iinfo(tensor.dtype)
    steps = np.rint(features / np.float32(tensor.scale)) + np.float32(tensor.zero_point)
    return np.clip(steps, bounds.min, bounds.max).astype(tensor.dtype)


def _dequantise(raw: Any, tensor: TensorInfo) -> FloatArray:
    """Turns what the tensor holds into float32."""
    if tensor.scale == 0:
        return np.asarray(raw, np.float32)
    steps = raw.astype(np.float32) - np.float32(tensor.zero_point)
    return np.asarray(steps * np.float32(tensor.scale), np.float32)
