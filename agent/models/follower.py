"""Follows the fleet's model version: judges the manifest that stands on the topic, has it tried, tells how it went.

Theory of operation. A manifest goes through these, and what is said of it on `model-status/` on the way:

    taken up (`acceptance.py`)             else `refused`
    its bytes are here (`library.py`)      `missing`
    canaries have tried it (`rollout.py`)  `waiting`; `held` where one of them did not keep it
    tried here (`trial.py`)                else `failed`
    in use (`running.py`)                  `watched`, for as long as the manifest says; then `active`, or `rolled-back`

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
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

import msgspec

from agent.errors import ModelMissing
from agent.infer.backend import InferenceError, ModelRejected, NoRoom
from agent.infer.kinds import Kind
from agent.infer.standby import ModelFile
from agent.limits import REASON_CHARACTERS_MAX
from agent.messages import ModelStatus
from agent.models.acceptance import ManifestRefused, sha256_in
from agent.models.errors import TransferError
from agent.models.library import FETCH_AGAIN_S
from agent.models.rollout import Rollout, Said
from agent.models.running import Running
from agent.models.trial import VersionBad, accelerator_check, try_out
from broker.errors import SecretUnusable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping

    from agent.infer.standby import StandbyClient, Version
    from agent.messages import ModelState
    from agent.models.acceptance import Acceptance, Accepted
    from agent.models.health import Verdict
    from agent.models.library import Library
    from agent.models.manifest import Manifest

__all__ = ["Fleet", "ModelFollower", "Surroundings"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRY_AGAIN_S: Final = 5.0
"""After trouble with the worker that is no fault of the model. The worker needs 0.1 s to come back. Guess."""
LOOK_S: Final = 0.5
"""How often to look whether others have tried a version. Its health window is seconds to hours."""
BEGIN_S: Final = 30.0
"""How long a device waits at its start for the bytes of the version that ran well last, should they have decayed."""
BOOTS_MAX: Final = 3
"""Boots that ended, other than in good order, while a version was tried, before it counts as the reason. Two may be
plugs. Guess."""
TELL_S: Final = 5.0
"""How often to say anew for whom a version waits, at most: each word of one device about it could bring about one of
every other's. Guess."""


class Fleet(NamedTuple):
    """What is seen of the other devices."""

    alive: Collection[str]
    statuses: Mapping[str, ModelStatus]
    """By device: what each said last of this model."""


class Surroundings(NamedTuple):
    """What a follower needs of its device."""

    device: str
    tell: Callable[[ModelStatus], None]
    """Is given each new status."""
    clock_ms: Callable[[], int]
    """Wall time in milliseconds."""
    fleet: Callable[[], Fleet]
    fits: Callable[[tuple[int, ...]], str]
    """Why the device's features do not fill an input of that shape; empty: they do."""


class _Newer(Exception):
    """Another manifest stands on the topic."""


class _Later(Exception):
    """To be tried again.

    Args:
        pause_s: After so long.
    """

    def __init__(self, pause_s: float) -> None:
        super().__init__(pause_s)
        self.pause_s = pause_s


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
        self._client = client
        self._library = library
        self._acceptance = acceptance
        self._around = around
        self._wanted = b""
        self._judged = True
        self._changed = asyncio.Event()
        self._pending: Accepted | None = None
        """On its way."""
        self._rollout: tuple[str, Rollout] | None = None
        """Of the manifest with that digest."""
        self._trying: Accepted | None = None
        """Whose version is tried or watched, which was noted on the disk."""
        self._running = Running(client, self._proved, self._rolled_back)
        self.status: ModelStatus | None = None
        """How the last change went."""
        self.refused: Counter[str] = Counter()
        """What was not taken up or not kept, by reason."""
        self.last_refused = ""

    @property
    def active(self) -> Accepted | None:
        """What runs now."""
        return self._running.active

    def version_of(self, sha256: str) -> str | None:
        """The version that a file belongs to that ran lately."""
        return self._running.name_of(sha256)

    def want(self, payload: bytes) -> None:
        """This stands on the model's topic. Said again, what was refused is judged again."""
        again = self._pending is None and self.status is not None and self.status.state == "refused"
        if payload != self._wanted or again:
            self._wanted, self._judged = payload, False
            self._changed.set()

    async def run(self) -> None:
        """Take up what is wanted, whenever that changes."""
        try:
            good = await self._begin()
            while True:
                if good is not None and self.active is None:
                    await self._begin_late(good)
                await self._changed.wait()
                self._changed.clear()
                await self._judge()
                try:
                    if self._pending is not None:
                        await self._take_up(self._pending)
                        self._pending = None
                except _Newer:
                    continue  # it has set `_changed`, and is judged next
                except _Later as later:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(later.pause_s):
                            await self._changed.wait()
                    self._changed.set()
        finally:
            await self._running.close()
            if self._trying is not None:
                with contextlib.suppress(SecretUnusable):
                    self._acceptance.end(self._trying)

    async def _begin(self) -> Accepted | None:
        """Run what ran well last, untried: there is nothing else to run. Returns it if its bytes cannot be had."""
        good = await asyncio.to_thread(self._acceptance.last_good)
        if good is None:
            return None
        try:
            async with asyncio.timeout(BEGIN_S):
                await self._resume(good)
        except (_Later, TimeoutError):
            return good  # it was told
        return None

    async def _begin_late(self, good: Accepted) -> None:
        """The same while nothing else is to be done: somebody may bring its bytes. What was said stands meanwhile."""
        try:
            await self._until_newer(self._library.bring(good.variant.content, good.manifest.deltas))
            await self._resume(good)
            self._judged = False  # what stands is said again
            self._changed.set()
        except (_Newer, _Later):
            pass

    async def _resume(self, good: Accepted) -> None:
        """Fetch, load and use what ran well before.

        Raises:
            _Later: Its bytes cannot be had, or not be kept.
        """
        files = await self._fetch(good)
        try:
            version = await self._client.prepare(files, accelerator_check(good.manifest))
        except (InferenceError, OSError) as error:
            # Not `failed`: others may wait for what becomes of this version, and it did well here.
            self._count("does not load")
            self._say(good, "waiting", f"it ran well before, and does not load now: {error}")
            return
        self._running.resume(good, version)
        await self._proved(good)

    async def _judge(self) -> None:
        if self._judged:
            return
        self._judged = True
        try:
            self._pending = await asyncio.to_thread(self._acceptance.judge, self._wanted)
        except ManifestRefused as error:
            self._refuse(error, self._wanted)

    async def _take_up(self, accepted: Accepted) -> None:
        """From a manifest that was taken up to what runs.

        Raises:
            _Newer: Another stands on the topic.
            _Later: It is to be tried again.
        """
        active = self._running.active
        if active is not None and active.manifest.variants == accepted.manifest.variants:
            self._pending = None
            if not await self._running.adopt(accepted):
                self._say(accepted, "watched", "")
            return
        bad = self._acceptance.bad(accepted)
        if bad is not None:
            self._say(accepted, bad.state, bad.reason)
            return
        if accepted.manifest.rollout.canary_share:
            # What is fetched here waits on the disk, and not in memory.
            await self._until_newer(self._fetch(accepted))
            await self._until_newer(self._my_turn(accepted))
        files = await self._until_newer(self._fetch(accepted))
        try:
            # It may have taken hours, and its operator have been revoked.
            await asyncio.to_thread(self._acceptance.judge, accepted.payload)
            version, usual_ns = await self._until_newer(self._try(accepted, files))
        except ManifestRefused as error:
            self._pending = None
            self._refuse(error, accepted.payload)
            return
        except VersionBad as error:
            await self._found_bad(accepted, "failed", error.reason, str(error))
            return
        self._pending = None
        self._running.swap(accepted, version, usual_ns)
        if accepted.manifest.rollout.health_window_s:
            self._say(accepted, "watched", "")

    # The steps.

    async def _fetch(self, accepted: Accepted) -> dict[Kind, ModelFile]:
        """The file for the processor and, where there is an Edge TPU, the one that was compiled for it.

        Raises:
            _Later: They cannot be had, or not be kept.
        """
        content = accepted.variant.content
        if not await asyncio.to_thread(self._library.is_here, content):
            self._say(accepted, "missing", f"{content.size_bytes:,} bytes are fetched from others")
        variants = [accepted.variant]
        compiled = accepted.manifest.variant(Kind.EDGETPU)
        if compiled is not None and self._client.wants_compiled:
            variants.append(compiled)
        decayed = partial(self._decayed, accepted)
        try:
            return {
                variant.kind: ModelFile(
                    await self._library.read(variant.content, accepted.manifest.deltas, decayed),
                    variant.content.sha256,
                )
                for variant in variants
            }
        except (TransferError, ModelMissing) as error:
            self._count(error.reason if isinstance(error, TransferError) else "missing")
            self.last_refused = str(error)[:REASON_CHARACTERS_MAX]
            self._say(accepted, "missing", str(error))
            raise _Later(FETCH_AGAIN_S) from None

    def _decayed(self, accepted: Accepted) -> None:
        """A file of it is not any more what it was when it was stored."""
        self._count("decayed")
        self.last_refused = "decayed: a file on the disk; what is bad of it is fetched from others"
        self._say(accepted, "missing", self.last_refused)

    async def _my_turn(self, accepted: Accepted) -> None:
        """Until this device may try it."""
        spec = accepted.manifest.rollout
        if self._rollout is None or self._rollout[0] != accepted.sha256:
            rollout = Rollout(
                accepted.sha256,
                spec.canary_share,
                spec.health_window_s,
                self._around.device,
                time.monotonic_ns(),
            )
            self._rollout = (accepted.sha256, rollout)
        _, rollout = self._rollout
        told: tuple[str, int] | None = None
        told_s = -TELL_S
        while True:
            fleet = self._around.fleet()
            said = {
                device: Said(status.state, _printable(status.reason))
                for device, status in fleet.statuses.items()
                if status.manifest == accepted.sha256
            }
            turn = rollout.look(fleet.alive, said, time.monotonic_ns())
            if turn.state == "go":
                return
            now_s = time.monotonic()
            if (turn.state, rollout.round) != told and now_s >= told_s + TELL_S:
                told, told_s = (turn.state, rollout.round), now_s
                self._say(accepted, turn.state, turn.reason)
            await asyncio.sleep(LOOK_S)

    async def _try(
        self, accepted: Accepted, files: Mapping[Kind, ModelFile]
    ) -> tuple[Version, int | None]:
        """A version that may come into use, and what an inference takes in the one that runs.

        Raises:
            VersionBad: It may not.
            _Later: It could not be tried.
        """
        try:
            if self._trying is None or self._trying.sha256 != accepted.sha256:
                boots = await asyncio.to_thread(self._acceptance.begin, accepted)
                self._trying = accepted
                if boots >= BOOTS_MAX:
                    text = f"the device went down {boots} times while it was tried or watched"
                    raise VersionBad("restarts", text)
            version = await self._client.prepare(files, accelerator_check(accepted.manifest))
        except NoRoom as error:
            self._say(accepted, "waiting", f"{error}; it is tried again")
            raise _Later(FETCH_AGAIN_S) from None
        except ModelRejected as error:
            raise VersionBad("does not load", error.reason) from None
        except (InferenceError, OSError, SecretUnusable) as error:
            self._say(accepted, "waiting", f"{error}; it is tried again")
            raise _Later(TRY_AGAIN_S) from None
        try:
            running = self._running.version
            return version, await try_out(version, accepted.manifest, running, self._around.fits)
        except BaseException:
            self._client.retire(version)
            raise

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
        self._tried(accepted)

    async def _rolled_back(self, accepted: Accepted, verdict: Verdict) -> None:
        reason = f"{verdict.reason}: {verdict.detail}"
        await self._found_bad(accepted, "rolled-back", verdict.reason, reason)

    async def _found_bad(
        self, accepted: Accepted, state: Literal["failed", "rolled-back"], word: str, reason: str
    ) -> None:
        reason = reason[:REASON_CHARACTERS_MAX]
        self._count(word)
        self.last_refused = reason
        self._settle(accepted, state, reason)
        try:
            await asyncio.to_thread(self._acceptance.found_bad, accepted, state, reason)
        except SecretUnusable as error:
            version = accepted.manifest.version
            logger.error("version %s is tried again after a restart: %s", version, error)
        self._tried(accepted)

    def _tried(self, accepted: Accepted) -> None:
        if self._trying is not None and self._trying.sha256 == accepted.sha256:
            self._trying = None

    def _settle(self, accepted: Accepted, state: ModelState, reason: str) -> None:
        """Say how it went, unless another manifest is on its way, of which others want to hear."""
        if self._pending is None or self._pending.sha256 == accepted.sha256:
            self._say(accepted, state, reason)
        else:
            self._say_again()

    def _refuse(self, error: ManifestRefused, payload: bytes) -> None:
        self._count(error.reason)
        self.last_refused = str(error)[:REASON_CHARACTERS_MAX]
        logger.warning("a manifest was refused: %s", self.last_refused)
        if error.manifest is not None and self._pending is None:
            first = error.manifest.variants[0].content.sha256
            digest = sha256_in(payload)
            self._tell(error.manifest, digest, first, "refused", self.last_refused)
        else:  # of what nobody has signed not even its name is told
            self._say_again()

    def _count(self, reason: str) -> None:
        self.refused[reason] += 1

    def _say_again(self) -> None:
        """The same, with what has changed since."""
        if self.status is not None:
            running = self.active.manifest.version if self.active is not None else None
            self.status = msgspec.structs.replace(
                self.status, running=running, refused=dict(self.refused)
            )
            self._around.tell(self.status)

    def _say(self, accepted: Accepted, state: ModelState, reason: str) -> None:
        manifest = accepted.manifest
        if reason:
            logger.warning("model %s version %s: %s", manifest.name, manifest.version, reason)
        self._tell(manifest, accepted.sha256, accepted.variant.content.sha256, state, reason)

    def _tell(
        self, manifest: Manifest, digest: str, sha256: str, state: ModelState, reason: str
    ) -> None:
        self.status = ModelStatus(
            name=manifest.name,
            version=manifest.version,
            manifest=digest,
            sha256=sha256,
            state=state,
            reason=reason[:REASON_CHARACTERS_MAX],
            running=self.active.manifest.version if self.active is not None else None,
            refused=dict(self.refused),
            at_ms=self._around.clock_ms(),
        )
        self._around.tell(self.status)


def _printable(text: str) -> str:
    """Another device's words, fit for a log."""
    return "".join(each if each.isprintable() else " " for each in text)
