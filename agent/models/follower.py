"""Follows the fleet's model version: judges the manifest that stands on the topic, has it tried, says how it went.

Theory of operation. A manifest goes through these, and what is said of it on `model-status/` (`telling.py`) on the way:

    taken up (`acceptance.py`)                       else `refused`
    its bytes are here (`version_files.py`)          `missing`
    canaries have tried it (`canaries.py`)           `waiting`; `held` where one of them did not keep it
    tried here (`attempts.py`)                       else `failed`
    in use (`running.py`)                            `watched`, for as long as it says; then `active`, or `rolled-back`

Whatever goes wrong leaves the version before it running; each reason is counted. A version that failed or was rolled
back is not tried again for the same manifest; neither is one under which the device itself went down BOOTS_MAX times.
A manifest with a higher counter takes the place of one that is on its way; one that is refused does not.

Assumes that the time is the latest that is known. On failure: what was no fault of the version (a full disk, a worker
that does not start) is tried again. After a restart the device begins with the version that ran well last, whoever it
then hears from, and a version that was watched begins its window anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from agent.infer.backend import ModelRejected
from agent.models.acceptance import ManifestRefused, NotStored
from agent.models.attempts import Attempts
from agent.models.canaries import Canaries
from agent.models.errors import Later
from agent.models.library import FETCH_AGAIN_S
from agent.models.running import Running
from agent.models.telling import Telling
from agent.models.trial import VersionBad
from agent.models.version_files import VersionFiles
from broker.errors import SecretUnusable

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from agent.infer.standby import StandbyClient
    from agent.messages import ModelState, ModelStatus
    from agent.models.acceptance import Acceptance, Accepted
    from agent.models.health import Verdict
    from agent.models.library import Library
    from agent.models.surroundings import Surroundings

__all__ = ["ModelFollower"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

BEGIN_S: Final = 30.0
"""How long a device waits at its start for the bytes of the version that ran well last, should they have decayed."""


class _Newer(Exception):
    """Another manifest stands on the topic."""


class ModelFollower:
    """Keeps one model current.

    Args:
        client: Where it runs.
        library: Where its bytes come from.
        acceptance: What is taken up.
        around: The device.
    """

    def __init__(
        self,
        client: StandbyClient,
        library: Library,
        acceptance: Acceptance,
        around: Surroundings,
    ) -> None:
        self._library = library
        self._acceptance = acceptance
        self._wanted = b""
        self._judged = True
        self._changed = asyncio.Event()
        self._pending: Accepted | None = None
        """On its way."""
        self._storing = asyncio.Lock()
        """Of what ran well: one version after the other, however long the disk takes."""
        self._running = Running(client, self._proved, self._rolled_back)
        self._telling = Telling(around, lambda: self.active, acceptance.unbelieved)
        self._files = VersionFiles(library, client, self._telling)
        self._canaries = Canaries(around, self._telling)
        self._attempts = Attempts(client, acceptance, self._telling, around)

    @property
    def active(self) -> Accepted | None:
        """What runs now."""
        return self._running.active

    @property
    def status(self) -> ModelStatus | None:
        """How the last change went."""
        return self._telling.status

    @property
    def refused(self) -> Mapping[str, int]:
        """What was not taken up or not kept, by reason."""
        return self._telling.refused

    @property
    def last_refused(self) -> str:
        """The last of these, for people."""
        return self._telling.last_refused

    def version_of(self, sha256: str) -> str | None:
        """The version that a file belongs to that ran lately."""
        return self._running.name_of(sha256)

    def want(self, payload: bytes) -> None:
        """This stands on the model's topic. Said again, what was refused is judged again."""
        status = self._telling.status
        again = self._pending is None and status is not None and status.state == "refused"
        if payload != self._wanted or again:
            self._wanted, self._judged = payload, False
            self._changed.set()

    def ended(self, reason: str) -> None:
        """Say that nothing runs any more, and why; `run` has ended."""
        self._telling.ended(reason)

    async def run(self) -> None:
        """Take up what is wanted, whenever that changes."""
        telling = asyncio.create_task(self._telling.tell_unbelieved())
        try:
            good = await self._begin()
            while True:
                if good is not None and self.active is None:
                    good = await self._begin_late(good)
                await self._changed.wait()
                self._changed.clear()
                try:
                    await self._judge()
                    if self._pending is not None:
                        await self._take_up(self._pending)
                        self._pending = None
                except _Newer:
                    continue  # it has set `_changed`, and is judged next
                except Later as later:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(later.pause_s):
                            await self._changed.wait()
                    self._changed.set()
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await self._running.close()
            self._attempts.end()

    # What the device begins with.

    async def _begin(self) -> Accepted | None:
        """Run what ran well last, untried: there is nothing else to run. Returns it if that cannot be, for now."""
        good = await asyncio.to_thread(self._acceptance.last_good)
        if good is None:
            return None
        try:
            async with asyncio.timeout(BEGIN_S):
                await self._resume(good)
        except (Later, TimeoutError):
            return good  # it was told
        return None

    async def _begin_late(self, good: Accepted) -> Accepted | None:
        """The same while nothing else is to be done: somebody may bring its bytes. What was said stands meanwhile."""
        try:
            await self._until_newer(self._library.bring(good.variant.content, good.manifest.deltas))
            await self._resume(good)
        except _Newer:
            return good
        except Later as later:
            asyncio.get_running_loop().call_later(later.pause_s, self._changed.set)
            return good
        self._judged = False  # what stands is said again
        self._changed.set()
        return None

    async def _resume(self, good: Accepted) -> None:
        """Fetch, load and use what ran well before.

        Raises:
            Later: Its bytes cannot be had, or not be kept, or not be loaded for now.
        """
        files = await self._files.fetch(good)
        try:
            version = await self._attempts.load(good, files)
        except ModelRejected as error:
            # Not `failed`: others may wait for what becomes of this version, and it did well here.
            self._telling.count("does not load")
            text = f"it ran well before, and does not load now: {error}"
            self._telling.say(good, "waiting", text)
            return
        self._running.resume(good, version)
        await self._proved(good)

    # What stands on the topic.

    async def _judge(self) -> None:
        """Whether what is wanted is taken up.

        Raises:
            Later: The disk does not take it.
        """
        if self._judged:
            return
        self._judged = True
        try:
            self._pending = await asyncio.to_thread(self._acceptance.judge, self._wanted)
        except ManifestRefused as error:
            # While another manifest is on its way, others want to hear of that one.
            self._telling.refuse(error, self._wanted, aloud=self._pending is None)
            if isinstance(error, NotStored):
                self._judged = False
                raise Later(FETCH_AGAIN_S) from None

    async def _take_up(self, accepted: Accepted) -> None:
        """From a manifest that was taken up to what runs.

        Raises:
            _Newer: Another stands on the topic.
            Later: It is to be tried again.
        """
        active = self._running.active
        if active is not None and active.manifest.variants == accepted.manifest.variants:
            self._pending = None
            if not await self._running.adopt(accepted):
                self._telling.say(accepted, "watched")
            return
        bad = self._acceptance.bad(accepted)
        if bad is not None:
            self._telling.say(accepted, bad.state, bad.reason)
            return
        if accepted.manifest.rollout.canary_share:
            # What is fetched here waits on the disk, and not in memory.
            await self._until_newer(self._files.fetch(accepted))
            await self._until_newer(self._canaries.wait(accepted))
        files = await self._until_newer(self._files.fetch(accepted))
        try:
            # It may have taken hours, and its operator have been revoked.
            await asyncio.to_thread(self._acceptance.judge, accepted.payload)
            attempt = self._attempts.make(accepted, files, self._running.version)
            version, usual_ns = await self._until_newer(attempt)
        except ManifestRefused as error:
            self._pending = None
            self._telling.refuse(error, accepted.payload, aloud=True)
            return
        except VersionBad as error:
            await self._found_bad(accepted, "failed", error.reason, str(error))
            return
        self._pending = None
        self._running.swap(accepted, version, usual_ns)
        if accepted.manifest.rollout.health_window_s:
            self._telling.say(accepted, "watched")

    async def _until_newer(self, step: Coroutine[None, None, T]) -> T:
        """What a step brings about.

        Raises:
            _Newer: Another manifest came before that.
        """
        working = asyncio.ensure_future(step)
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({working, changed}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise _Newer
            return working.result()
        finally:
            for task in (working, changed):
                task.cancel()
            await asyncio.gather(working, changed, return_exceptions=True)

    # What came of it.

    async def _proved(self, accepted: Accepted) -> None:
        self._settle(accepted, "active", "")
        async with self._storing:
            version = self._running.version
            if version is not None:
                compiled = () if version.compiled is None else (version.compiled.sha256,)
                await self._library.runs(version.info.sha256, *compiled)
            try:
                await asyncio.to_thread(self._acceptance.ran_well, accepted)
            except SecretUnusable as error:
                logger.error(
                    "version %s is forgotten at a restart: %s", accepted.manifest.version, error
                )
        self._attempts.over(accepted)

    async def _rolled_back(self, accepted: Accepted, verdict: Verdict) -> None:
        reason = f"{verdict.reason}: {verdict.detail}"
        await self._found_bad(accepted, "rolled-back", verdict.reason, reason)

    async def _found_bad(
        self, accepted: Accepted, state: Literal["failed", "rolled-back"], word: str, text: str
    ) -> None:
        self._telling.count(word, text)
        reason = self._telling.last_refused
        self._settle(accepted, state, reason)
        try:
            await asyncio.to_thread(self._acceptance.found_bad, accepted, state, reason)
        except SecretUnusable as error:
            version = accepted.manifest.version
            logger.error("version %s is tried again after a restart: %s", version, error)
        self._attempts.over(accepted)

    def _settle(self, accepted: Accepted, state: ModelState, reason: str) -> None:
        """Say how it went, unless another manifest is on its way, of which others want to hear."""
        if self._pending is None or self._pending.sha256 == accepted.sha256:
            self._telling.say(accepted, state, reason)
        else:
            self._telling.say_again()
