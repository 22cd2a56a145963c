"""What the inference client hands out: results, descriptions, counts, and its own errors.

Nothing is decided here. All of it is immutable; arrays belong to whoever receives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from agent.infer.backend import FloatArray, InferenceError, TensorInfo
from agent.infer.kinds import Kind

__all__ = [
    "Busy",
    "ClientStatistics",
    "Inference",
    "InputRefused",
    "ModelInfo",
    "NoModel",
    "WorkerLost",
]


class NoModel(InferenceError):
    """An inference was asked for before a model was loaded."""


class Busy(InferenceError):
    """More callers wait for their turn than `callers_waiting_max`."""


class InputRefused(InferenceError):
    """The features are not finite float32 of the model's input shape; nothing was run."""


class ModelInfo(NamedTuple):
    """A loaded model: SHA-256 of its file in hex, its size, its tensors.

    `kind` is what the file was made for, `runtime` what runs it.
    """

    sha256: str
    model_bytes: int
    input: TensorInfo
    output: TensorInfo
    kind: Kind = Kind.TFLITE
    runtime: str = ""


class WorkerLost(InferenceError):
    """The worker ended or had to be ended, or none can be had; `reason` says how."""


class Inference(NamedTuple):
    """One result: float32 of the model's output shape, the caller's to keep.

    `invoke_ns` is the time inside the worker, (de)quantising included; `model` is what ran.
    """

    output: FloatArray
    invoke_ns: int
    model: ModelInfo


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What a client did since it was made.

    Attributes:
        inferences: Results handed out.
        inferences_failed: Inferences that the runtime gave up or that were lost with the worker.
        models_loaded: Models taken, reloads after a restart not counted.
        models_rejected: Models not taken.
        workers_lost: Workers that died, hung or were cancelled.
        workers_started: Workers started, the first one included.
        worker_pid: Process id of the present worker, None while there is none.
        runtime: The runtime in use, empty before the first start.
        last_loss: Why the last worker was lost, empty if none was.
    """

    inferences: int
    inferences_failed: int
    models_loaded: int
    models_rejected: int
    workers_lost: int
    workers_started: int
    worker_pid: int | None
    runtime: str
    last_loss: str
