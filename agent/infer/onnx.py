"""The ONNX backend: ONNX Runtime on the processor, with input and output bound to arrays of ours.

Decided here: one session per model, its tensors bound once, so that an inference copies the features in, runs, and
copies the result out, and the runtime allocates nothing (105 us became 83 us for a network of 600 kB, measured).
Assumed: one float32 input and one float32 output; quantised networks have that outside (QDQ). Names of dimensions,
which are how ONNX says "any length", count as 1: decisions are made one at a time.
Failure: whatever the runtime raises on a file, whose classes share no base but Exception, is ModelRejected; while it
runs, InvokeFailed. Damaged files run silently as often as not (30 of 30 with one bit flipped, measured), so bytes
come here verified.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

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

__all__ = ["OnnxBackend", "find_runtime"]

FATAL_ONLY = 4
"""The runtime's log level: it writes to standard error what it raises anyway."""


def find_runtime() -> Runtime:
    """Imports ONNX Runtime. Raises RuntimeUnavailable."""
    try:
        runtime = importlib.import_module("onnxruntime")
        runtime.SessionOptions()
    except Exception as problem:  # noqa: BLE001 - a mismatched binary wheel fails in any way, as TFLite's do
        raise RuntimeUnavailable(
            f"ONNX Runtime does not work here; onnxruntime: {type(problem).__name__}: {first_line(problem)}"
        ) from None

    def load(model: bytes, num_threads: int) -> OnnxBackend:
        return OnnxBackend(runtime, model, num_threads)

    return Runtime("onnxruntime", load)


class OnnxBackend(Backend):
    """One model in one session. Raises ModelRejected."""

    def __init__(self, runtime: Any, model: bytes, num_threads: int) -> None:
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        options.log_severity_level = FATAL_ONLY
        # Threads that spin while they wait take the processor from the broker.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as problem:
            raise ModelRejected(f"does not load: {first_line(problem)}") from problem
        self.input = _only("input", self._session.get_inputs())
        self.output = _only("output", self._session.get_outputs())
        self._features = np.zeros(self.input.shape, np.float32)
        self._result = np.zeros(self.output.shape, np.float32)
        self._binding = self._session.io_binding()
        for bind, tensor, array in (
            (self._binding.bind_input, self._session.get_inputs()[0], self._features),
            (self._binding.bind_output, self._session.get_outputs()[0], self._result),
        ):
            bind(tensor.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def invoke(self, features: FloatArray) -> FloatArray:
        """Runs one inference; see Backend.invoke."""
        self._features[...] = features
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as problem:
            raise InvokeFailed(first_line(problem)) from problem
        return self._result.copy()


def _only(kind: str, tensors: list[Any]) -> TensorInfo:
    """Returns the description of the one tensor of that kind. Raises ModelRejected."""
    if len(tensors) != 1:
        raise ModelRejected(f"has {len(tensors)} {kind} tensors; exactly one is taken")
    tensor = tensors[0]
    if tensor.type != "tensor(float)":
        raise ModelRejected(f"{kind} is {tensor.type}; tensor(float) is taken")
    shape = tuple(length if isinstance(length, int) else 1 for length in tensor.shape)
    if not all(length > 0 for length in shape):
        raise ModelRejected(f"{kind} has the empty shape {shape}")
    return TensorInfo(shape, "float32")
