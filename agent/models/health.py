"""Whether a version does well in use: what is counted for as long as its manifest says.

Decides that a version is bad as soon as more of its inferences have failed than the manifest bears, its worker was
lost, or its inferences take much longer than those of the version before; that it is healthy when the window is over
and none of that came true. An inference that failed for its input's sake (`InputRefused`) is nobody's failure here.

Assumes that the latencies were measured inside the worker. On failure: there is nothing to fail. A window without
inferences ends healthy: the sample was tried, and there was nothing to harm.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agent.infer.kinds import Kind
    from agent.models.manifest import Rollout

__all__ = ["LATENCIES", "LATENCY_SLACK_NS", "Health", "Verdict", "too_slow"]

LATENCY_SLACK_NS: Final = 10_000_000
"""An inference may take so much longer than before, whatever factor the manifest bears: where one of microseconds is
followed by one of milliseconds, nobody notices. A tenth of the time between two pictures. Guess."""
LATENCIES: Final = 32
"""So many inferences of a kind are looked at, and of them the fastest: what a busy machine does to the others, by ten
times and more where ten devices share two cores, is no fault of the version."""
FAILURES_OF: Final = 100
"""Until so many were made, the share of failures is taken of that many: one among the first few is no share."""


class Verdict(NamedTuple):
    """What came of the window; an empty reason: it is healthy."""

    reason: str = ""
    """As it is counted."""
    detail: str = ""


class Health:
    """Of one version in use.

    Args:
        rollout: What the manifest bears.
        usual_ns: Fastest inference of the version before, by kind; a kind that is not there is not compared.
        now_ns: Monotonic; when it came into use.
        changed: Called when there may be a verdict.
    """

    def __init__(
        self,
        rollout: Rollout,
        usual_ns: Mapping[Kind, int],
        now_ns: int,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._rollout = rollout
        self._usual_ns = dict(usual_ns)
        self.ends_ns = now_ns + round(rollout.health_window_s * 1e9)
        """When the window is over."""
        self._changed = changed
        self._inferences = self._failures = 0
        self._last_failure = ""
        self._lost = ""
        self._latencies: dict[Kind, deque[int]] = {}

    def inferred(self, kind: Kind, invoke_ns: int) -> None:
        """An inference was made."""
        self._inferences += 1
        latencies = self._latencies.setdefault(kind, deque(maxlen=LATENCIES))
        latencies.append(invoke_ns)

    def failed(self, reason: str) -> None:
        """An inference failed, and not for its input's sake."""
        self._inferences += 1
        self._failures += 1
        self._last_failure = reason
        self._changed()

    def lost(self, reason: str) -> None:
        """Its worker ended, or had to be ended."""
        self._lost = reason
        self._changed()

    def fastest(self, kinds: Iterable[Kind]) -> dict[Kind, int]:
        """What inferences of these kinds took lately, where there were enough."""
        return {
            kind: min(self._latencies[kind])
            for kind in kinds
            if len(self._latencies.get(kind, ())) >= LATENCIES
        }

    def slow(self) -> tuple[Kind, int] | None:
        """A kind of inference that takes too long, and its fastest; None: none does."""
        for kind, taken_ns in self.fastest(self._usual_ns).items():
            if too_slow(taken_ns, self._usual_ns[kind], self._rollout.latency_factor_max):
                return kind, taken_ns
        return None

    def usual(self, kind: Kind, taken_ns: int) -> None:
        """The version before was measured again: under load it takes longer, too."""
        self._usual_ns[kind] = max(taken_ns, self._usual_ns.get(kind, 0))

    def verdict(self, now_ns: int) -> Verdict | None:
        """What is to be said by now, latencies apart; None: go on watching."""
        if self._lost:
            return Verdict("worker lost", self._lost)
        over = now_ns >= self.ends_ns
        judged_of = self._inferences if over else max(self._inferences, FAILURES_OF)
        if self._failures > self._rollout.error_share_max * judged_of:
            counted = f"{self._failures} of {self._inferences} inferences failed"
            return Verdict("inferences failed", f"{counted}, the last: {self._last_failure}")
        return Verdict() if over else None


def too_slow(taken_ns: int, usual_ns: int, factor_max: float) -> bool:
    """Whether an inference takes too long for what it usually takes; a factor of 0 bears anything."""
    return factor_max > 0 and taken_ns > usual_ns * factor_max + LATENCY_SLACK_NS
