"""The device's side of inference: one model in one worker, kept alive.

Decided here: a model's digest is checked before anything else touches its bytes; a model counts as
good once it has loaded and run in the worker; when the worker is lost, however that came, another
is started and the last good model loaded again, at once the first time, with growing pauses while
no inference succeeds in between. Requests take turns, so a model is swapped between two inferences
and none is lost to it. Features are written when the turn has come and the worker is there, so they
are as fresh as can be.
Assumed: one event loop; `start` before and `stop` after everything else.
Failure: every method fails with a kind of InferenceError that concerns its own request; the next
request finds a working worker or waits for it, at most `recovery_wait_s`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import math
import os
from typing import TYPE_CHECKING, BinaryIO, Final, Self, TypeVar

import numpy as np

from agent.infer import wire
from agent.infer.backend import (
    InferenceError,
    InvokeFailed,
    ModelRejected,
    NoRoom,
)
from agent.infer.bounded_lock import BoundedLock
from agent.infer.edgetpu import EdgeTpu
from agent.infer.kinds import Kind
from agent.infer.limits import Limits
from agent.infer.process import WorkerProcess
from agent.infer.records import (
    ClientStatistics,
    Inference,
    InputRefused,
    ModelInfo,
    NoModel,
    WorkerLost,
)
from agent.infer.settings import Settings
from agent.infer.shared_template import SharedTemplate
from agent.infer.wire import Verb
from broker.tasks import begin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.infer.backend import FloatArray

__all__ = ["InferenceClient"]

logger = logging.getLogger(__name__)

M = TypeVar("M")

PROCESSOR: Final = (Kind.TFLITE, Kind.ONNX)
"""The kinds that a worker without an accelerator runs."""
ANY_EDGE_TPU: Final = EdgeTpu()


class InferenceClient:
    """Runs inferences in a worker process. Use `start` and `stop`, or `async with`.

    `kinds` are the kinds of models that its worker is for; `edge_tpu` is the accelerator, if that
    is one of them.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        num_threads: int = 1,
        kinds: Sequence[Kind] = PROCESSOR,
        edge_tpu: EdgeTpu = ANY_EDGE_TPU,
    ) -> None:
        self._limits = limits or Limits()
        self._settings = Settings(
            tuple(kinds),
            num_threads,
            self._limits.tensor_bytes_max,
            self._limits.load_timeout_s,
            self._limits.invoke_timeout_s,
            edge_tpu,
        )
        self._invoke_ns_max = (self._settings.invoke_alarm_s + 1) * 1_000_000_000
        """An alarm of whole seconds would have ended the worker."""
        self._template: SharedTemplate
        self._memory: BinaryIO | None = None
        self._worker: WorkerProcess | None = None
        self._worker_changed = asyncio.Event()
        self._supervision: asyncio.Task[None] | None = None
        self._requests = BoundedLock(self._limits.callers_waiting_max)
        self._losses_in_row = 0
        self._model: ModelInfo | None = None
        self._model_file: BinaryIO | None = None
        self._input: FloatArray
        self._output: FloatArray
        self._inferences = 0
        self._inferences_failed = 0
        self._models_loaded = 0
        self._models_rejected = 0
        self._workers_lost = 0
        self._workers_started = 0
        self._runtime = ""
        self._last_loss = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def model(self) -> ModelInfo | None:
        """The model in use."""
        return self._model

    async def start(self) -> None:
        """Starts the worker. Raises RuntimeUnavailable, WorkerLost."""
        self._memory = wire.nameless_file()
        self._template = SharedTemplate.hold()
        try:
            self._worker = await self._bring_up(self._memory)
        except BaseException:
            self._memory.close()
            await self._template.release()
            raise
        self._supervision = begin(
            self._supervise(self._memory, self._worker), "supervision of an inference worker"
        )

    async def stop(self) -> None:
        """Ends the worker and waits until it is gone. Whoever still waits gets WorkerLost."""
        if self._supervision is None:
            return
        supervision, self._supervision = self._supervision, None
        supervision.cancel()
        self._worker_changed.set()
        await asyncio.gather(supervision, return_exceptions=True)
        if self._worker is not None:
            await self._worker.close()
            self._worker = None
        for file in (self._memory, self._model_file):
            if file is not None:
                file.close()
        await self._template.release()

    async def finish(self) -> None:
        """The same, after the inference that is under way."""
        async with self._requests.unbounded:
            await self.stop()

    @property
    def ready(self) -> bool:
        """Whether there is a model, and a worker that can be asked."""
        return self._model is not None and self._present is not None

    async def load(self, model: bytes, sha256: str, kind: Kind = Kind.TFLITE) -> ModelInfo:
        """Takes a model into use, if its bytes have that SHA-256 (lower-case hex) and it runs.

        Raises ModelRejected and NoRoom, and the previous model stays in use; WorkerLost if there was no
        worker to try it on; Busy.
        """
        try:
            info = await self._load(model, sha256, kind)
        except ModelRejected as problem:
            self._models_rejected += 1
            logger.warning("model %.12s rejected: %s", sha256, problem.reason)
            raise
        self._models_loaded += 1
        return info

    async def infer(self, features: FloatArray) -> Inference:
        """Runs the model on float32 of its input's shape.

        Raises InputRefused, NoModel, InvokeFailed, WorkerLost, Busy. Cancelling it while it runs
        costs the worker, since nothing else ends an inference.
        """

        def fill(into: FloatArray) -> None:
            if features.shape != into.shape:
                raise InputRefused(f"features of shape {features.shape}; it takes {into.shape}")
            into[...] = features

        _, inference = await self.infer_filled(fill)
        return inference

    async def infer_filled(self, fill: Callable[[FloatArray], M]) -> tuple[M, Inference]:
        """Runs the model on what `fill` writes into the worker's input; also returns its result.

        `fill(into)` is called when the turn has come, just before the model runs. It overwrites
        all of `into`, float32 of the input's shape, and keeps no reference to it. What it raises
        comes out here and nothing is run. Raises the same as `infer`.
        """
        async with self._requests:
            worker = await self._usable_worker()
            model = self._model
            if model is None:
                raise NoModel("no model is loaded")
            filled = fill(self._input)
            if not _finite(self._input):
                raise InputRefused("features hold NaN or infinity")
            self._inferences_failed += 1  # until it is known to have succeeded
            answer = await worker.ask(Verb.INVOKE, self._limits.invoke_timeout_s)
            if answer.verb is not Verb.DONE:
                raise InvokeFailed(answer.text)
            if answer.value > self._invoke_ns_max:  # the model may have taken the worker over
                lie = f"says that an inference took {answer.value / 1e9:g} s"
                worker.kill(lie)
                raise WorkerLost(lie)
            output = self._output.copy()
            if not _finite(output):
                raise InvokeFailed("what comes out holds NaN or infinity")
            self._inferences_failed -= 1
            self._inferences += 1
            self._losses_in_row = 0
            return filled, Inference(output, answer.value, model)

    def statistics(self) -> ClientStatistics:
        """Returns the counts so far."""
        worker = self._present
        return ClientStatistics(
            inferences=self._inferences,
            inferences_failed=self._inferences_failed,
            models_loaded=self._models_loaded,
            models_rejected=self._models_rejected,
            workers_lost=self._workers_lost,
            workers_started=self._workers_started,
            worker_pid=worker.pid if worker is not None else None,
            runtime=self._runtime,
            last_loss=self._last_loss,
        )

    async def _load(self, model: bytes, sha256: str, kind: Kind) -> ModelInfo:
        """The body of `load`, which counts what it raises."""
        if len(model) > self._limits.model_bytes_max:
            raise ModelRejected(
                f"{len(model)} bytes; at most {self._limits.model_bytes_max} are taken"
            )
        # In a thread: 4 MB take 3 ms here (measured) and ten times that on a Pi 4.
        digest = await asyncio.to_thread(lambda: hashlib.sha256(model).hexdigest())
        if digest != sha256:
            raise ModelRejected(f"its digest is {digest}, not {sha256}")
        async with self._requests:
            worker = await self._usable_worker()
            assert self._memory is not None
            with contextlib.ExitStack() as cleanup:
                try:
                    file = cleanup.enter_context(wire.nameless_file())
                    _write(file, model)
                except OSError as problem:
                    raise NoRoom(f"no room to hand it over: {problem}") from problem
                try:
                    answer = await self._ask_to_load(worker, file, len(model), kind)
                    runtime, *tensors = wire.unpack_loaded(answer.tail)
                    self._input, self._output = wire.map_tensors(self._memory.fileno(), *tensors)
                except OSError as problem:  # the worker has taken the model up
                    worker.kill(f"has tensors that cannot be seen here: {problem}")
                    raise NoRoom(f"no room for its tensors: {problem}") from problem
                except ValueError as problem:  # the model may have taken the worker over
                    worker.kill(f"sent {problem}")
                    raise ModelRejected(f"the worker sent {problem} over it") from problem
                except WorkerLost as problem:
                    if self._supervision is None:
                        raise
                    raise ModelRejected(f"the worker {problem.reason} over it") from problem
                cleanup.pop_all()
            if self._model_file is not None:
                self._model_file.close()
            self._model_file = file
            self._model = ModelInfo(sha256, len(model), tensors[0], tensors[1], kind, runtime)
            return self._model

    async def _ask_to_load(
        self, worker: WorkerProcess, file: BinaryIO, model_bytes: int, kind: Kind
    ) -> wire.Message:
        """Raises ModelRejected, NoRoom, WorkerLost."""
        answer = await worker.ask(
            Verb.LOAD,
            self._limits.load_timeout_s,
            value=model_bytes,
            text=kind,
            file=file.fileno(),
        )
        if answer.verb is Verb.NO_ROOM:
            raise NoRoom(f"no room for its tensors: {answer.text}")
        if answer.verb is not Verb.LOADED:
            raise ModelRejected(answer.text)
        return answer

    @property
    def _present(self) -> WorkerProcess | None:
        """The worker, if it can be asked."""
        worker = self._worker
        if worker is None or worker.lost.is_set() or self._supervision is None:
            return None
        return worker

    async def _usable_worker(self) -> WorkerProcess:
        """Waits for a worker that can be asked. Raises WorkerLost."""
        worker = self._present
        if worker is not None:
            return worker  # at once: to set a limit to no wait costs an inference 4 us (measured)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.recovery_wait_s):
                while self._supervision is not None:
                    self._worker_changed.clear()
                    await self._worker_changed.wait()
                    if self._present is not None:
                        return self._present
                raise WorkerLost("is not started")
        raise WorkerLost(f"was gone for {self._limits.recovery_wait_s:g} s: {self._last_loss}")

    async def _supervise(self, memory: BinaryIO, worker: WorkerProcess) -> None:
        """Replaces every worker that is lost, for ever."""
        while True:
            self._note_loss(await worker.wait_lost())
            self._worker = None
            while self._worker is None:
                await asyncio.sleep(self._pause_s())
                try:
                    self._worker = worker = await self._bring_up(memory)
                except (InferenceError, OSError) as problem:
                    self._note_loss(str(problem))
            self._worker_changed.set()

    async def _bring_up(self, memory: BinaryIO) -> WorkerProcess:
        """Starts a worker with the last good model. Raises InferenceError, OSError."""
        worker = await WorkerProcess.start(
            self._template, memory.fileno(), self._settings, self._limits
        )
        self._workers_started += 1
        self._runtime = worker.runtime
        if self._model is not None and self._model_file is not None:
            try:
                model = self._model
                await self._ask_to_load(worker, self._model_file, model.model_bytes, model.kind)
            except BaseException:
                await worker.close()
                raise
        return worker

    def _note_loss(self, reason: str) -> None:
        self._workers_lost += 1
        self._losses_in_row += 1
        self._last_loss = reason
        logger.warning("inference worker lost, loss %d in a row: %s", self._losses_in_row, reason)

    def _pause_s(self) -> float:
        """How long to wait before the next start, in seconds."""
        if self._losses_in_row <= 1:
            return 0.0
        doublings = min(self._losses_in_row - 2, 32)
        pause_s: float = self._limits.restart_backoff_s * 2**doublings
        return min(pause_s, self._limits.restart_backoff_max_s)


def _finite(values: FloatArray) -> bool:
    """Whether there is neither NaN nor infinity: a finite sum has none among its terms, any other is looked into.

    One pass, without an array: 600 KB take 7 us; the least and the greatest of them took 12 (measured).
    """
    return math.isfinite(np.einsum("i->", values.ravel())) or bool(np.isfinite(values).all())


def _write(file: BinaryIO, model: bytes) -> None:
    """Writes all of it. Raises OSError."""
    if file.write(model) != len(model):  # the room ended within it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
