"""What runs: a version in use, the one before it kept warm, and the window in which the new one must prove itself.

Decides when one version replaces another: at once, between two inferences, and back again as soon as its health is bad.
Until a version has proved itself, the one that did so last stays loaded and answers what the new one fails on; a
version that is replaced within its window leaves no trace. Where its inferences are slow, the one before is measured
again first, since whatever else the device does slows both.

Assumes that versions were tried (`trial.py`). On failure: a version that was the first one is taken out of use, and
nothing is inferred.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.infer.backend import InferenceError
from agent.infer.kinds import Kind
from agent.models.health import Health, Verdict
from agent.models.trial import INFERENCES, inference_ns
from broker.tasks import begin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.infer.standby import StandbyClient, Version
    from agent.models.acceptance import Accepted

__all__ = ["Running"]

LOOK_S: Final = 0.25
"""How often to look whether the worker was lost while nothing was inferred. A failed inference is looked at at once."""
NAMES_MAX: Final = 8
"""Files whose version is known: of four versions with one for the Edge TPU. A decision under way is of the last two."""


@dataclass(slots=True, eq=False)
class _InUse:
    accepted: Accepted
    version: Version
    health: Health
    workers_lost: int


class Running:
    """Of one model.

    Args:
        client: Where it runs.
        proved: Is told when a version has done well for its window.
        rolled_back: Is told when it was taken back, and why.
    """

    def __init__(
        self,
        client: StandbyClient,
        proved: Callable[[Accepted], Awaitable[None]],
        rolled_back: Callable[[Accepted, Verdict], Awaitable[None]],
    ) -> None:
        self._client = client
        self._proved = proved
        self._rolled_back = rolled_back
        self._now: _InUse | None = None
        self._before: _InUse | None = None
        """What proved itself last, while `_now` has not."""
        self._watching: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._names: dict[str, str] = {}

    @property
    def active(self) -> Accepted | None:
        """What runs now."""
        return self._now.accepted if self._now is not None else None

    @property
    def version(self) -> Version | None:
        """The same, loaded."""
        return self._now.version if self._now is not None else None

    def name_of(self, sha256: str) -> str | None:
        """The version that a file belongs to that ran lately."""
        return self._names.get(sha256)

    def swap(self, accepted: Accepted, version: Version, usual_ns: int | None) -> None:
        """Take a version into use, from the next inference on.

        Args:
            accepted: Its manifest.
            version: It, loaded and tried.
            usual_ns: Fastest inference of what ran, on the processor.
        """
        now, unproved = self._now, self._watching
        usual = {} if usual_ns is None else {version.info.kind: usual_ns}
        if now is not None:
            usual |= now.health.fastest((Kind.EDGETPU,))
        if unproved is None:
            self._before = now
        self._now = self._in_use(accepted, version, usual)
        self._serve()
        if unproved is not None:
            unproved.cancel()
            assert now is not None, "it was being watched"
            self._client.retire(now.version)
        name = f"watching version {accepted.manifest.version}"
        self._watching = begin(self._watch(self._now), name)

    def resume(self, accepted: Accepted, version: Version) -> None:
        """Run what proved itself before the device was restarted."""
        self._now = self._in_use(accepted, version, {})
        self._serve()

    async def adopt(self, accepted: Accepted) -> bool:
        """Run on under another manifest of the same files. Returns whether the version has proved itself."""
        assert self._now is not None, "something runs"
        self._now.accepted = accepted
        self._name(accepted)
        if self._watching is not None:
            return False
        await self._proved(accepted)
        return True

    async def close(self) -> None:
        """Watch no more; the workers are the client's to end."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    # Inside.

    def _in_use(self, accepted: Accepted, version: Version, usual_ns: dict[Kind, int]) -> _InUse:
        self._name(accepted)
        rollout = accepted.manifest.rollout
        health = Health(rollout, usual_ns, time.monotonic_ns(), self._woken.set)
        lost = version.client.statistics().workers_lost
        return _InUse(accepted, version, health, lost)

    def _name(self, accepted: Accepted) -> None:
        for variant in accepted.manifest.variants:
            self._names.pop(variant.content.sha256, None)
            self._names[variant.content.sha256] = accepted.manifest.version
        for oldest in [*self._names][:-NAMES_MAX]:
            del self._names[oldest]

    def _serve(self) -> None:
        now, before = self._now, self._before
        self._client.use(
            now.version if now is not None else None,
            before.version if before is not None else None,
        )
        self._client.watcher = now.health if now is not None else None

    async def _watch(self, watched: _InUse) -> None:
        """Until the verdict; then act upon it."""
        while (verdict := await self._verdict(watched)) is None:
            left_s = (watched.health.ends_ns - time.monotonic_ns()) / 1e9
            try:
                async with asyncio.timeout(min(max(left_s, 0), LOOK_S)):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
        self._watching = None
        before, self._before = self._before, None
        if not verdict.reason:
            if before is not None:
                self._client.retire(before.version)
            await self._proved(watched.accepted)
            return
        self._now = before
        self._serve()
        self._client.retire(watched.version)
        await self._rolled_back(watched.accepted, verdict)

    async def _verdict(self, watched: _InUse) -> Verdict | None:
        health = watched.health
        counted = watched.version.client.statistics()
        if counted.workers_lost > watched.workers_lost:
            health.lost(counted.last_loss)
        slow = health.slow()
        if slow is not None:
            kind, taken_ns = slow
            before_ns = await self._measured_again(kind)
            if before_ns is not None:
                health.usual(kind, before_ns)
            if health.slow() is not None:
                took = f"an inference takes {taken_ns / 1e6:.1f} ms"
                usual = f", and {before_ns / 1e6:.1f} before" if before_ns is not None else ""
                return Verdict("slow", took + usual)
        return health.verdict(time.monotonic_ns())

    async def _measured_again(self, kind: Kind) -> int | None:
        """The fastest inference of the version before, now; None: it cannot be measured."""
        before = self._before
        if before is None or kind is Kind.EDGETPU:
            return None
        shape = before.version.info.input.shape
        try:
            return min(await inference_ns(before.version.client, shape, INFERENCES))
        except InferenceError:
            return None
