"""Inference that survives its model: versions are tried beside the one that serves, and an accelerator may come and go.

Decided here: every version has a worker process of its own on the processor. `prepare` loads one beside what serves;
`use` makes it serve, by setting one reference between two inferences, while an inference under way ends where it began;
`retire` ends a worker after that. While a fallback is named (the version before, still warm), it answers the readings
on which the serving one fails.

A version with a file for the Edge TPU also runs there, in one more worker, which reloads: there is one delegate. After
each `use` the processor serves until the Edge TPU has the version and gives what its sample expects. When an inference
fails there, in whatever way, the same reading goes to the processor at once; a lost worker comes back by itself
(`client.py`); one that only failed is left alone for AGAIN_S. So losing the accelerator costs the inference that met
it INVOKE_TIMEOUT_S at most, and none after it.

The price: a worker for each version that is loaded, two while one is tried or watched, and one for an Edge TPU: 13 MB
that no other process shares, of 40 MB resident, with a model of 4 MB (measured).
Assumed: one event loop; `start` before and `stop` after everything else.
Failure: that of the serving version's client. Why the Edge TPU is not in use is in `reason`, for a person; a defect
while it is looked after is logged, stands there, too, and costs it AGAIN_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self, TypeVar

from agent.infer.backend import InferenceError, InvokeFailed, ModelRejected
from agent.infer.client import InferenceClient
from agent.infer.edgetpu import plugged_in
from agent.infer.kinds import Kind
from agent.infer.limits import Limits
from agent.infer.records import Busy, ClientStatistics, NoModel, WorkerLost
from agent.infer.shared_template import SharedTemplate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from agent.infer.backend import FloatArray
    from agent.infer.edgetpu import EdgeTpu
    from agent.infer.records import Inference, ModelInfo

    Check = Callable[[InferenceClient, ModelInfo], Awaitable[str]]

__all__ = ["ModelFile", "StandbyClient", "Version", "Watcher"]

logger = logging.getLogger(__name__)

M = TypeVar("M")

AGAIN_S: Final = 10.0
"""How often to look for an accelerator that is not there, and how long to leave one alone that failed. Guess."""
OPEN_BACKOFF_S: Final = 30.0
"""Longest pause between starts of its worker, each of which resets the accelerator. Guess."""
INVOKE_TIMEOUT_S: Final = 2.0
"""Longest inference there. The slowest first one is 154 ms (coral/edgetpu #451); three seconds without a decision are
too many."""


async def _as_it_is(client: InferenceClient, info: ModelInfo) -> str:
    """Finds nothing wrong."""
    del client, info
    return ""


NOTHING: Final = ClientStatistics(0, 0, 0, 0, 0, 0, None, "", "")


class ModelFile(NamedTuple):
    """A file of a model, and its SHA-256 in lower-case hex."""

    data: bytes
    sha256: str


class Version(NamedTuple):
    """A version that is loaded, in a worker of its own."""

    client: InferenceClient
    info: ModelInfo
    """Of its file for the processor."""
    compiled: ModelFile | None
    """Its file for the Edge TPU."""
    check: Check
    """Says what is wrong with that, once it is loaded there; empty: nothing."""


class Watcher(Protocol):
    """Is told what becomes of the serving version's inferences."""

    def inferred(self, kind: Kind, invoke_ns: int) -> None:
        """One was made, by a file of that kind."""

    def failed(self, reason: str) -> None:
        """One failed on the processor, and not for its input's sake."""


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
        self._limits = limits or Limits()
        self._num_threads = num_threads
        self._edge_tpu = edge_tpu
        self._always = always
        self._tpu_limits = replace(
            self._limits,
            invoke_timeout_s=min(INVOKE_TIMEOUT_S, self._limits.invoke_timeout_s),
            restart_backoff_max_s=OPEN_BACKOFF_S,
        )
        self._template: SharedTemplate | None = None
        self._serving: Version | None = None
        self._fallback: Version | None = None
        self._clients: list[InferenceClient] = []
        """All that are not over."""
        self._past = NOTHING
        """What those did that are."""
        self._retiring: set[asyncio.Task[None]] = set()
        self._tpu: InferenceClient | None = None
        self._tpu_file: ModelFile | None = None
        self._current = ""
        """Digest of the file that the Edge TPU has, if that is of the serving version."""
        self._trusted_from_s = 0.0
        self._changed = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self.watcher: Watcher | None = None
        """Of the serving version."""
        self.reason = "" if edge_tpu is not None else "edge_tpu is off"
        """Why the Edge TPU is not in use; empty while it is."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Finds out that workers can be had; the Edge TPU's follows. Raises RuntimeUnavailable, WorkerLost."""
        self._template = SharedTemplate.hold()  # so it is warm when the first version comes
        try:
            await self._end(await self._worker())
        except BaseException:
            await self._let_go()
            raise
        if self._edge_tpu is not None:
            self._keeping = asyncio.create_task(self._keep(self._edge_tpu))

    async def stop(self) -> None:
        """Ends the workers and waits until they are gone."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        if self._tpu is not None:
            await self._tpu.stop()
            self._tpu = None
        self._serving = self._fallback = None
        await asyncio.gather(*(client.stop() for client in self._clients), *self._retiring)
        await self._let_go()

    async def prepare(self, files: Mapping[Kind, ModelFile], check: Check = _as_it_is) -> Version:
        """Loads a version in a worker of its own; what serves goes on.

        `check` says what is wrong with its file for the Edge TPU, once that is loaded there. Raises what
        `InferenceClient.start` and `load` do.
        """
        client = await self._worker()
        try:
            info = await _load(client, files)
        except BaseException:
            await self._end(client)
            raise
        return Version(client, info, files.get(Kind.EDGETPU), check)

    def use(self, version: Version | None, fallback: Version | None = None) -> None:
        """Makes a version serve from the next inference on, and name which one answers where it fails.

        Without one, nothing is inferred.
        """
        self._serving, self._fallback = version, fallback
        self._current, self._tpu_file = "", version.compiled if version is not None else None
        if self._edge_tpu is not None and self._tpu_file is None:
            self._say("the version has no file for it")
        self._changed.set()

    def retire(self, version: Version) -> None:
        """Ends a version's worker as soon as no inference is under way there."""
        if self._fallback is version:
            self._fallback = None
        task = asyncio.create_task(self._end(version.client))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def infer_filled(self, fill: Callable[[FloatArray], M]) -> tuple[M, Inference]:
        """Runs the model; see `InferenceClient.infer_filled`. `fill` may be called once for each worker that fails."""
        tpu = self._usable_tpu()
        if tpu is not None:
            try:
                result = await tpu.infer_filled(fill)
            except (WorkerLost, InvokeFailed, Busy, NoModel) as problem:
                self._say(problem.reason)
                self._trusted_from_s = asyncio.get_running_loop().time() + AGAIN_S
            else:
                self._say("")
                if self.watcher is not None and self._usable_tpu() is tpu:
                    self.watcher.inferred(Kind.EDGETPU, result[1].invoke_ns)
                return result
        version = self._serving
        if version is None:
            raise NoModel("no model is loaded")
        try:
            result = await version.client.infer_filled(fill)
        except (WorkerLost, InvokeFailed) as problem:
            other = self._instead_of(version, problem)
            if other is None:
                raise
            return await other.client.infer_filled(fill)
        if self.watcher is not None and self._serving is version:
            self.watcher.inferred(version.info.kind, result[1].invoke_ns)
        return result

    def statistics(self) -> ClientStatistics:
        """Returns the counts of all workers on the processor, and the process id of the one that serves."""
        found = _sum(self._past, *(client.statistics() for client in self._clients))
        if self._serving is None:
            return found
        now = self._serving.client.statistics()
        return replace(found, worker_pid=now.worker_pid, runtime=now.runtime)

    @property
    def wants_compiled(self) -> bool:
        """Whether a version's file for the Edge TPU is of use here."""
        wanted = self._always or self._tpu is not None or plugged_in() != ""
        return self._edge_tpu is not None and wanted

    @property
    def in_use(self) -> ModelInfo | None:
        """What the next inference runs on."""
        tpu = self._usable_tpu()
        if tpu is not None:
            return tpu.model
        return self._serving.info if self._serving is not None else None

    def _usable_tpu(self) -> InferenceClient | None:
        tpu = self._tpu
        if tpu is None or not self._current or not tpu.ready:
            return None
        return tpu if asyncio.get_running_loop().time() >= self._trusted_from_s else None

    def _instead_of(self, version: Version, problem: InferenceError) -> Version | None:
        """Which version answers a reading on which this one failed; None: none does."""
        if self._serving is not version:
            return self._serving  # it was taken out of use meanwhile
        if self.watcher is not None:
            self.watcher.failed(problem.reason)
        return self._fallback

    async def _let_go(self) -> None:
        """Holds the template no more."""
        template, self._template = self._template, None
        if template is not None:
            await template.release()

    async def _worker(self) -> InferenceClient:
        """One more, without a model. Raises RuntimeUnavailable, WorkerLost."""
        client = InferenceClient(self._limits, num_threads=self._num_threads)
        await client.start()
        self._clients.append(client)
        return client

    async def _end(self, client: InferenceClient) -> None:
        """Ends a worker for good, after the inference under way."""
        await client.finish()
        if client in self._clients:
            self._clients.remove(client)
            self._past = _sum(self._past, client.statistics())

    async def _keep(self, edge_tpu: EdgeTpu) -> None:
        """Has a worker for the Edge TPU whenever there is one, with the current version, for ever."""
        while True:
            try:
                if self._tpu is None:
                    await self._open(edge_tpu)
                if self._tpu is not None and self._tpu_file is not None and not self._current:
                    await self._load_on_tpu(self._tpu, self._tpu_file)
            except Exception as defect:
                reason = f"a defect of this program: {type(defect).__name__}: {defect}"
                if reason != self.reason:
                    logger.exception("Edge TPU: a defect")
                self._say(reason)
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
        version = self._serving
        assert version is not None, "its file is there"
        try:
            info = await tpu.load(*file, Kind.EDGETPU)
            wrong = await version.check(tpu, info)
        except InferenceError as problem:
            self._say(problem.reason)
            return
        if file is not self._tpu_file:
            return
        if wrong:
            self._tpu_file = None  # it will not come right
            self._say(wrong)
        else:
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


async def _load(client: InferenceClient, files: Mapping[Kind, ModelFile]) -> ModelInfo:
    rejected = ModelRejected("the version has no file for a processor")
    for kind in (Kind.TFLITE, Kind.ONNX):
        if kind in files:
            try:
                return await client.load(*files[kind], kind)
            except ModelRejected as problem:
                rejected = problem
    raise rejected


def _sum(*counted: ClientStatistics) -> ClientStatistics:
    """What several workers did together; none of them is the present one."""
    return ClientStatistics(
        inferences=sum(each.inferences for each in counted),
        inferences_failed=sum(each.inferences_failed for each in counted),
        models_loaded=sum(each.models_loaded for each in counted),
        models_rejected=sum(each.models_rejected for each in counted),
        workers_lost=sum(each.workers_lost for each in counted),
        workers_started=sum(each.workers_started for each in counted),
        worker_pid=None,
        runtime=next((each.runtime for each in reversed(counted) if each.runtime), ""),
        last_loss=next((each.last_loss for each in reversed(counted) if each.last_loss), ""),
    )
