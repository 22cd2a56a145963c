"""What a runtime has to offer to run models here: the seam between the worker and TFLite.

Decided here: callers see float32 only, one input and one output tensor; a backend quantises and
dequantises by itself. Models come as bytes that someone has verified, never as a path, because a
file that is overwritten under a running interpreter kills the process (SIGBUS, measured).
Assumed: a backend may crash its process at any call, so it only ever runs in the worker.
Failure: what a runtime refuses is `ModelRejected`; a runtime that does not work at all is
`RuntimeUnavailable`; an inference that the runtime gave up is `InvokeFailed`.

This module is imported by both sides, so it imports nothing heavy but numpy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Backend",
    "FloatArray",
    "InferenceError",
    "InvokeFailed",
    "ModelRejected",
    "NoRoom",
    "Runtime",
    "RuntimeUnavailable",
    "TensorInfo",
    "first_line",
]

FloatArray = npt.NDArray[np.float32]

FLOAT32_BYTES = 4


class InferenceError(Exception):
    """Anything that inference may fail with; `reason` is one line for a person.

    InferenceError
    ├── ModelRejected        this model is not taken; the previous one stays
    ├── NoRoom               nor is it, but for no fault of its own: there is no room for it or its tensors
    ├── InvokeFailed         this inference failed; the model and the worker stay
    ├── RuntimeUnavailable   no runtime of the kind works on this machine
    └── (records.py) WorkerLost, NoModel, Busy, InputRefused
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelRejected(InferenceError):
    """A model does not load, does not run, or has a shape that is not taken."""


class NoRoom(InferenceError):
    """There is no room in memory to hand a model to the worker, or for its tensors; there may be later."""


class InvokeFailed(InferenceError):
    """The runtime gave up one inference with an error."""


class RuntimeUnavailable(InferenceError):
    """No runtime could be imported and used; `reason` lists what was tried."""


class TensorInfo(NamedTuple):
    """One tensor as the model file declares it.

    `scale` and `zero_point` map its integers to floats, `(q - zero_point) * scale`; both are 0
    for a float tensor.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    @property
    def float_bytes(self) -> int:
        """Size in bytes as callers see it, in float32."""
        return math.prod(self.shape) * FLOAT32_BYTES


class Backend(Protocol):
    """A loaded model, ready to run. Not thread-safe."""

    input: TensorInfo
    """The one input."""
    output: TensorInfo
    """The one output."""

    def invoke(self, features: FloatArray) -> FloatArray:
        """Runs one inference.

        Takes finite float32 of the input's shape, returns float32 of the output's shape, which
        the caller may keep. Raises InvokeFailed.
        """


class Runtime(NamedTuple):
    """A runtime that was tried and works: its name and how it turns bytes into a backend.

    `load(model, num_threads)` raises ModelRejected.
    """

    name: str
    load: Callable[[bytes, int], Backend]


def first_line(problem: BaseException) -> str:
    """Shortens an error of a runtime, which may go on for a page, to its first line."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]
