"""Inference that an accelerator speeds up and the processor always carries.

Decided here: every version is loaded on the processor first, and on the Edge TPU, in a worker of its own, if there is
a file for it. An inference goes to the Edge TPU while that has the current version; when it fails there, in whatever
way, the same reading goes to the processor at once. A lost worker comes back by itself (`client.py`); one that only
failed is left alone for AGAIN_S. So losing the accelerator costs the inference that met it INVOKE_TIMEOUT_S at most,
and none after it. The price is a second worker, 50 MB, on devices with an Edge TPU.
Assumed: one event loop; `start` before and `stop` after everything else.
Failure: that of the processor's client. Why the Edge TPU is not in use is in `reason`, for a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

from agent.infer.backend import InferenceError, InvokeFailed, ModelRejected
from agent.infer.client import InferenceClient
from agent.infer.edgetpu import plugged_in
from agent.infer.kinds import Kind
from agent.infer.limits import Limits
from agent.infer.process import WorkerLost
from agent.infer.records import Busy, NoModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.infer.backend import FloatArray
    from agent.infer.edgetpu import EdgeTpu
    from agent.infer.records import ClientStatistics, Inference, ModelInfo

__all__ = ["ModelFile", "StandbyClient"]

logger = logging.getLogger(__name__)

M = TypeVar("M")

AGAIN_S: Final = 10.0
"""How often to look for an accelerator that is not there, and how long to leave one alone that failed. Guess."""
OPEN_BACKOFF_S: Final = 30.0
"""Longest pause between starts of its worker: each costs a second of processor time on a Pi. Guess."""
INVOKE_TIMEOUT_S: Final = 2.0
"""Longest inference there. The slowest first one is 154 ms (coral/edgetpu #451); three seconds without a decision are
too many."""


class ModelFile(NamedTuple):
    """A file of a model, and its SHA-256 in lower-case hex."""

    data: bytes
    sha256: str


class StandbyClient:
    """Runs inferences on the Edge TPU if it can, on the processor otherwise. Like `InferenceClient`.

    Args:
        limits: The bounds of the processor's worker.
        num_threads: Of its runtime.
        edge_tpu: The accelerator; None: it is not used.
        always: Whether to try it though the kernel shows none.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        num_threads: int = 1,
        edge_tpu: EdgeTpu | None = None,
        always: bool = False,
    ) -> None:
        limits = limits or Limits()
        self._processor = InferenceClient(limits, num_threads=num_threads)
        self._edge_tpu = edge_tpu
        self._always = always
        self._tpu_limits = replace(
            limits,
            invoke_timeout_s=min(INVOKE_TIMEOUT_S, limits.invoke_timeout_s),
            restart_backoff_max_s=OPEN_BACKOFF_S,
        )
        self._tpu: InferenceClient | None = None
        self._tpu_file: ModelFile | None = None
        self._current = (
            ""  # the file's digest that the Edge TPU has, if that is of the current version
        )
        self._trusted_from_s = 0.0
        self._changed = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self.reason = "" if edge_tpu is not None else "edge_tpu is off"
        """Why the Edge TPU is not in use; empty while it is."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts the processor's worker; the Edge TPU's follows. Raises RuntimeUnavailable, WorkerLost."""
        await self._processor.start()
        if self._edge_tpu is not None:
            self._keeping = asyncio.create_task(self._keep(self._edge_tpu))

    async def stop(self) -> None:
        """Ends the workers and waits until they are gone."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping
        if self._tpu is not None:
            await self._tpu.stop()
            self._tpu = None
        await self._processor.stop()

    async def load(self, files: Mapping[Kind, ModelFile]) -> ModelInfo:
        """Takes a version into use: the file for the processor now, that for the Edge TPU as soon as it can.

        Raises what `InferenceClient.load` does; the previous version then stays in use on both.
        """
        info = await self._load_on_processor(files)
        self._current, self._tpu_file = "", files.get(Kind.EDGETPU)
        if self._edge_tpu is not None and self._tpu_file is None:
            self._say("the version has no file for it")
        self._changed.set()
        return info

    async def infer_filled(self, fill: Callable[[FloatArray], M]) -> tuple[M, Inference]:
        """Runs the model; see `InferenceClient.infer_filled`. `fill` may be called once for each of the two."""
        tpu = self._usable_tpu()
        if tpu is not None:
            try:
                result = await tpu.infer_filled(fill)
            except (WorkerLost, InvokeFailed, Busy, NoModel) as problem:
                self._say(problem.reason)
                self._trusted_from_s = asyncio.get_running_loop().time() + AGAIN_S
            else:
                self._say("")
                return result
        return await self._processor.infer_filled(fill)

    def statistics(self) -> ClientStatistics:
        """Returns the counts of the processor's worker."""
        return self._processor.statistics()

    def tpu_statistics(self) -> ClientStatistics | None:
        """Returns the counts of the Edge TPU's worker, if there is or was one."""
        return self._tpu.statistics() if self._tpu is not None else None

    @property
    def wants_compiled(self) -> bool:
        """Whether a version's file for the Edge TPU is of use here."""
        wanted = self._always or self._tpu is not None or plugged_in() != ""
        return self._edge_tpu is not None and wanted

    @property
    def in_use(self) -> ModelInfo | None:
        """What the next inference runs on."""
        tpu = self._usable_tpu()
        return (tpu or self._processor).model

    def _usable_tpu(self) -> InferenceClient | None:
        tpu = self._tpu
        if tpu is None or not self._current or not tpu.ready:
            return None
        return tpu if asyncio.get_running_loop().time() >= self._trusted_from_s else None

    async def _load_on_processor(self, files: Mapping[Kind, ModelFile]) -> ModelInfo:
        rejected = ModelRejected("the version has no file for a processor")
        for kind in (Kind.TFLITE, Kind.ONNX):
            if kind in files:
                try:
                    return await self._processor.load(*files[kind], kind)
                except ModelRejected as problem:
                    rejected = problem
        raise rejected

    async def _keep(self, edge_tpu: EdgeTpu) -> None:
        """Has a worker for the Edge TPU whenever there is one, with the current version, for ever."""
        while True:
            if self._tpu is None:
                await self._open(edge_tpu)
            if self._tpu is not None and self._tpu_file is not None and not self._current:
                await self._load_on_tpu(self._tpu, self._tpu_file)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S):
                    await self._changed.wait()
            self._changed.clear()

    async def _open(self, edge_tpu: EdgeTpu) -> None:
        if not self._always and not plugged_in():
            self._say("none is plugged in")
            return
        client = InferenceClient(self._tpu_limits, kinds=(Kind.EDGETPU,), edge_tpu=edge_tpu)
        try:
            await client.start()
        except (InferenceError, OSError) as problem:
            self._say(str(problem))
        else:
            self._tpu = client

    async def _load_on_tpu(self, tpu: InferenceClient, file: ModelFile) -> None:
        try:
            await tpu.load(*file, Kind.EDGETPU)
        except InferenceError as problem:
            self._say(problem.reason)
        else:
            if file is self._tpu_file:
                self._current = file.sha256

    def _say(self, reason: str) -> None:
        """Notes why the Edge TPU is not used, or that it is."""
        if reason == self.reason:
            return
        self.reason = reason
        if reason:
            # Most devices have none, and need not be told.
            expected = self._always or self._tpu is not None
            level = logging.WARNING if expected else logging.DEBUG
            logger.log(level, "inference is on the processor; Edge TPU: %s", reason)
        else:
            logger.info("inference is on the Edge TPU")
