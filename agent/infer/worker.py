"""The worker process: runs one model, fed through shared memory. A fork of the template (template.py).

Why a process: a damaged model crashes some runtimes, libedgetpu aborts on a USB error, and an
inference beside busy Python code waits for the interpreter lock (0.4 ms become 5 ms, measured).

Decided here: what runs a kind of model is found when the first of it comes. One request at a time,
in order, so a new model takes over between two inferences: it is loaded and run once on zeros
before the reference is swapped; if anything of that fails the old one stays. Assumed: requests come
from `client.py`; nothing here knows of broker or world, and little is imported, since a device and
its worker share 150 MB.
Failure: the worker ends when its socket does, so it never outlives the device. Only while it is
inside the runtime it cannot see that; there an alarm ends it, set somewhat later than the device's
own watchdog. SIGINT and SIGTERM, which reach the whole process group, are the device's to answer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from array import array
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.infer import wire
from agent.infer.backend import (
    Backend,
    FloatArray,
    InferenceError,
    InvokeFailed,
    ModelRejected,
    Runtime,
    RuntimeUnavailable,
)
from agent.infer.kinds import Kind
from agent.infer.promptness import take_short_slices
from agent.infer.wire import Message, Verb

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.infer.edgetpu import EdgeTpu
    from agent.infer.settings import Settings

    Find = Callable[[Kind, EdgeTpu], Runtime]

__all__ = ["Worker", "run"]

ONE_DESCRIPTOR: Final = socket.CMSG_SPACE(array("i").itemsize)


class Worker:
    """Answers requests with the model it has."""

    def __init__(self, settings: Settings, memory: int, find: Find) -> None:
        self._settings = settings
        self._memory = memory
        self._find = find
        self._runtimes: dict[Kind, Runtime] = {}
        self._backend: Backend | None = None
        self._input: FloatArray
        self._output: FloatArray

    def runtime(self, kind: Kind) -> Runtime:
        """Returns what runs models of that kind. Raises RuntimeUnavailable."""
        if kind not in self._runtimes:
            self._runtimes[kind] = self._find(kind, self._settings.edge_tpu)
        return self._runtimes[kind]

    def greet(self) -> Message:
        """Says the first runtime that works, of the kinds that this worker is for, or why none does."""
        problems = []
        for kind in self._settings.kinds:
            try:
                return Message(Verb.READY, 0, 0, self.runtime(kind).name.encode())
            except RuntimeUnavailable as problem:
                problems.append(problem.reason)
        return Message(Verb.UNAVAILABLE, 0, 0, "; ".join(problems).encode())

    def load(self, request: Message, descriptors: list[int]) -> Message:
        """Loads the model in the file that came along; the old one stays if that fails."""
        signal.alarm(self._settings.load_alarm_s)
        try:
            runtime = self.runtime(Kind(request.text))
            backend = self._tried(runtime, descriptors, request.value)
            wire.reserve(self._memory, backend.input, backend.output)
            self._input, self._output = wire.map_tensors(
                self._memory, backend.input, backend.output
            )
        except OSError as problem:
            return Message(Verb.NO_ROOM, request.number, 0, str(problem).encode())
        except (InferenceError, MemoryError) as problem:
            reason = str(problem) or type(problem).__name__
            return Message(Verb.REJECTED, request.number, 0, reason.encode())
        finally:
            signal.alarm(0)
            for descriptor in descriptors:
                os.close(descriptor)
        self._backend = backend
        described = wire.pack_loaded(runtime.name, backend.input, backend.output)
        return Message(Verb.LOADED, request.number, 0, described)

    def _tried(self, runtime: Runtime, descriptors: list[int], model_bytes: int) -> Backend:
        """Loads a model and runs it once, on zeros. Raises ModelRejected, InvokeFailed."""
        # Bytes, not a mapping of the file: who sent it could still change it.
        model = b"".join(os.pread(descriptor, model_bytes, 0) for descriptor in descriptors)
        if len(model) != model_bytes:
            raise ModelRejected(f"{len(model)} of {model_bytes} bytes arrived")
        backend = runtime.load(model, self._settings.num_threads)
        for tensor in (backend.input, backend.output):
            if tensor.float_bytes > self._settings.tensor_bytes_max:
                raise ModelRejected(
                    f"a tensor of {tensor.float_bytes} bytes;"
                    f" at most {self._settings.tensor_bytes_max} are taken"
                )
        backend.invoke(np.zeros(backend.input.shape, np.float32))
        return backend

    def invoke(self, request: Message) -> Message:
        """Runs the model on the shared input; the result is the shared output."""
        if self._backend is None:
            return Message(Verb.FAILED, request.number, 0, b"no model is loaded")
        signal.alarm(self._settings.invoke_alarm_s)
        started_ns = time.perf_counter_ns()
        try:
            self._output[...] = self._backend.invoke(self._input)
        except InvokeFailed as problem:
            return Message(Verb.FAILED, request.number, 0, problem.reason.encode())
        finally:
            signal.alarm(0)
        return Message(Verb.DONE, request.number, time.perf_counter_ns() - started_ns)


def run(settings: Settings, channel: int, memory: int, find: Find) -> None:
    """Serves on a socket, with the shared memory of that descriptor, until the device closes its end."""
    # The device is gone: it closed the socket before it read the answer.
    take_short_slices()
    with (
        socket.socket(fileno=channel) as device,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
    ):
        worker = Worker(settings, memory, find)
        greeting = worker.greet()
        device.send(greeting.pack())
        while greeting.verb is Verb.READY:
            packet, descriptors = _receive(device)
            if not packet:
                return
            request = Message.unpack(packet)
            answer = (
                worker.load(request, descriptors)
                if request.verb is Verb.LOAD
                else worker.invoke(request)
            )
            device.send(answer.pack())


def _receive(device: socket.socket) -> tuple[bytes, list[int]]:
    """Returns a packet, and what came along. `socket.recv_fds` costs each inference 1.5 us more (measured)."""
    packet, along, _, _ = device.recvmsg(wire.MESSAGE_BYTES_MAX, ONE_DESCRIPTOR)
    return packet, [descriptor for _, _, data in along for descriptor in array("i", data)]
