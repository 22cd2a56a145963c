"""The inference loop: from a reading to a decision, always on the newest reading.

Decided here: readings wait in a single place, and a newer one takes it; which reading is used and
what the world looks like is settled when the model is about to run, not when the reading came. So a
model that is slower than the sensor decides less often, never on older and older input. A reading that is older than
its deadline by then, or that would be decided on with state that is too old, is not run (`LoopLimits`).
Assumed: all times come from one monotonic clock; `fill` and `on_decision` return at once.
Failure: an inference that is refused, fails, or is lost with its worker costs that one decision; it
is counted and logged and the loop waits for the next reading. What `fill` and `on_decision` raise
beyond InputRefused is a bug of theirs and ends `run`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from agent.infer.backend import InferenceError
from agent.infer.limits import LoopLimits
from agent.infer.records import InputRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.infer.backend import FloatArray
    from agent.infer.records import Inference, ModelInfo

__all__ = ["Decision", "Filled", "InferenceLoop", "LoopStatistics", "StateTooOld", "TooLate"]

logger = logging.getLogger(__name__)

R = TypeVar("R")
M = TypeVar("M")


class TooLate(InputRefused):
    """A reading was older than its deadline when the model could run."""


class StateTooOld(InputRefused):
    """The state of the world beside a reading was older than is allowed."""


class Filled(NamedTuple):
    """What the features were made of.

    `captured_ns`: when the reading was captured, on the loop's clock. `state_age_ns`: how old the
    state of the world was that went in beside it.
    """

    captured_ns: int
    state_age_ns: int


class Decision(NamedTuple):
    """One result and how fresh it is.

    `output`: float32 of the model's output shape. `invoke_ns`: time in the runtime. `latency_ns`:
    from capture to here, everything included. `state_age_ns`: age of the state when it was used.
    """

    output: FloatArray
    model: ModelInfo
    captured_ns: int
    latency_ns: int
    state_age_ns: int
    invoke_ns: int


@dataclass(frozen=True, slots=True)
class LoopStatistics:
    """What a loop did.

    Attributes:
        submitted: Readings handed in.
        superseded: Readings that a newer one replaced before they were used.
        decided: Decisions reported.
        late: Readings that were older than their deadline.
        stale: Readings beside which the state was too old.
        failed: Attempts that gave no decision for another reason.
        last_failure: Why the last attempt without a decision had none, empty if all had one.
    """

    submitted: int
    superseded: int
    decided: int
    late: int
    stale: int
    failed: int
    last_failure: str


class Infers(Protocol):
    """The part of InferenceClient that the loop uses."""

    async def infer_filled(self, fill: Callable[[FloatArray], M]) -> tuple[M, Inference]:
        """See InferenceClient.infer_filled."""


class InferenceLoop(Generic[R]):
    """Turns readings of type R into decisions.

    `fill(reading, into)` overwrites all of `into`, float32 of the model's input shape, and tells
    what it used; it raises InputRefused if it cannot. `on_decision` receives every decision, in
    order. `clock` returns monotonic nanoseconds. `limits` are how old things may be.
    """

    def __init__(
        self,
        client: Infers,
        fill: Callable[[R, FloatArray], Filled],
        on_decision: Callable[[Decision], None],
        *,
        limits: LoopLimits | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._client = client
        self._fill = fill
        self._on_decision = on_decision
        self._clock = clock
        limits = limits or LoopLimits()
        self._deadline_ns = limits.deadline_ms * 1_000_000
        self._state_age_max_ns = limits.state_age_max_ms * 1_000_000
        self._newest: list[R] = []  # at most one; a reading may itself be None
        self._used: list[R] = []  # what the attempt under way took, likewise
        self._arrived = asyncio.Event()
        self._stopping = False
        self._submitted = 0
        self._superseded = 0
        self._decided = 0
        self._late = self._stale = self._failed = 0
        self._failing = False  # a failure that goes on is logged once
        self._last_failure = ""

    def submit_nowait(self, reading: R) -> None:
        """Hands in a reading; it replaces one that still waits."""
        self._submitted += 1
        self._superseded += len(self._newest)
        self._newest[:] = [reading]
        self._arrived.set()

    def stop_nowait(self) -> None:
        """Makes `run` return after the inference under way; waiting readings are left."""
        self._stopping = True
        self._arrived.set()

    async def run(self) -> None:
        """Decides until it is stopped."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._stopping:
                return
            if self._newest:
                await self._decide()

    def statistics(self) -> LoopStatistics:
        """Returns the counts so far."""
        return LoopStatistics(
            submitted=self._submitted,
            superseded=self._superseded,
            decided=self._decided,
            late=self._late,
            stale=self._stale,
            failed=self._failed,
            last_failure=self._last_failure,
        )

    async def _decide(self) -> None:
        """Runs one inference on the newest reading and reports it."""
        self._used.clear()
        try:
            filled, inference = await self._client.infer_filled(self._fill_newest)
        except InferenceError as problem:
            # A reading that was not used stays, to be replaced by the next one like any other.
            self._note(problem)
            return
        self._decided += 1
        self._failing = False
        self._on_decision(
            Decision(
                output=inference.output,
                model=inference.model,
                captured_ns=filled.captured_ns,
                latency_ns=self._clock() - filled.captured_ns,
                state_age_ns=filled.state_age_ns,
                invoke_ns=inference.invoke_ns,
            )
        )

    def _note(self, problem: InferenceError) -> None:
        """Counts an attempt without a decision, and logs what kind of it begins."""
        self._late += isinstance(problem, TooLate)
        self._stale += isinstance(problem, StateTooOld)
        self._failed += not isinstance(problem, TooLate | StateTooOld)
        failure = f"{type(problem).__name__}: {problem.reason}"
        if not self._failing or failure != self._last_failure:
            logger.warning("no decision: %s", failure)
        self._failing, self._last_failure = True, failure

    def _fill_newest(self, into: FloatArray) -> Filled:
        """Takes the reading that is the newest now, and the world as it is now.

        It is called again where one worker has failed and another takes over; the reading is the same one then, unless
        a newer one came.
        """
        if self._newest:
            self._superseded += len(self._used)
            self._used[:] = [self._newest.pop()]
        filled = self._fill(self._used[0], into)
        if self._clock() - filled.captured_ns > self._deadline_ns:
            raise TooLate(f"the reading is older than {self._deadline_ns // 1_000_000} ms")
        if filled.state_age_ns > self._state_age_max_ns:
            raise StateTooOld(
                f"the state beside it is older than {self._state_age_max_ns // 1_000_000} ms"
            )
        return filled
