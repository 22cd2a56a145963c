"""Follows the fleet's model version: judges the manifest that stands on the topic, loads it, tells how it went.

A manifest that is refused, a version whose bytes are not on this device, and one that does not load leave the version
before it running; the reason stands on `model-status/`, refusals counted. After a restart the device begins with the
version that ran well last, whoever it then hears from.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from agent.errors import ModelMissing
from agent.infer.backend import InferenceError, ModelRejected
from agent.infer.kinds import Kind
from agent.infer.standby import ModelFile
from agent.limits import REASON_CHARACTERS_MAX
from agent.messages import ModelStatus
from agent.models.acceptance import ManifestRefused
from broker.errors import SecretUnusable

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.infer.standby import StandbyClient
    from agent.models.acceptance import Acceptance, Accepted
    from agent.models.library import Library
    from agent.models.manifest import Manifest

__all__ = ["ModelFollower"]

logger = logging.getLogger(__name__)

TRY_AGAIN_S: Final = 5.0
"""After a load that failed through no fault of the model. The worker needs 0.1 s to come back. Guess."""


class ModelFollower:
    """Keeps one model current.

    Args:
        client: Where it is loaded.
        library: Where its bytes come from.
        acceptance: What is taken up.
        tell: Is given each new status.
        clock_ms: Wall time in milliseconds.
    """

    def __init__(
        self,
        client: StandbyClient,
        library: Library,
        acceptance: Acceptance,
        tell: Callable[[ModelStatus], None],
        clock_ms: Callable[[], int],
    ) -> None:
        self._client = client
        self._library = library
        self._acceptance = acceptance
        self._tell = tell
        self._clock_ms = clock_ms
        self._wanted = b""
        self._changed = asyncio.Event()
        self.active: Accepted | None = None
        """What runs now."""
        self.status: ModelStatus | None = None
        """How the last change went."""
        self.refused: Counter[str] = Counter()
        """Manifests that were not taken up, by reason."""
        self.last_refused = ""

    def want(self, payload: bytes) -> None:
        """This stands on the model's topic. Said again, what did not come up is tried again."""
        if payload != self._wanted or (self.status is not None and self.status.state != "active"):
            self._wanted = payload
            self._changed.set()

    async def run(self) -> None:
        """Load what is wanted, whenever that changes."""
        good = await asyncio.to_thread(self._acceptance.last_good)
        if good is not None and self.active is None:
            await self._take_up(good)
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                accepted = await asyncio.to_thread(self._acceptance.judge, self._wanted)
            except ManifestRefused as error:
                self._refuse(error)
            else:
                await self._take_up(accepted)

    async def _take_up(self, accepted: Accepted) -> None:
        content = accepted.variant.content
        loaded = [content.sha256]
        if self.active is None or self.active.variant.content.sha256 != content.sha256:
            try:
                files = await self._fetch(accepted)
                if files is None:
                    return
                await self._client.load(files)
                loaded = [file.sha256 for file in files.values()]
            except ModelMissing as error:
                self._say(accepted, "missing", str(error))
                return
            except ModelRejected as error:
                self._say(accepted, "failed", error.reason)
                return
            except InferenceError as error:
                # The worker's trouble, not the model's: it passes.
                self._say(accepted, "failed", f"{error.reason}; it is tried again")
                await asyncio.sleep(TRY_AGAIN_S)
                self._changed.set()
                return
        self.active = accepted
        self._say(accepted, "active", "")
        await self._library.runs(*loaded)
        try:
            await asyncio.to_thread(self._acceptance.ran_well, accepted)
        except SecretUnusable as error:
            logger.error(
                "version %s is forgotten at a restart: %s", accepted.manifest.version, error
            )

    async def _fetch(self, accepted: Accepted) -> dict[Kind, ModelFile] | None:
        """The files of a version; None: meanwhile another is wanted."""
        content = accepted.variant.content
        if not await asyncio.to_thread(self._library.is_here, content):
            self._say(accepted, "missing", f"{content.size_bytes:,} bytes are fetched from others")
        fetching = asyncio.ensure_future(self._read(accepted))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({fetching, changed}, return_when=asyncio.FIRST_COMPLETED)
            return fetching.result() if fetching.done() else None
        finally:
            for task in (fetching, changed):
                task.cancel()
            await asyncio.gather(fetching, changed, return_exceptions=True)

    async def _read(self, accepted: Accepted) -> dict[Kind, ModelFile]:
        """The file for the processor and, where there is an Edge TPU, the one that was compiled for it."""
        variants = [accepted.variant]
        compiled = accepted.manifest.variant(Kind.EDGETPU)
        if compiled is not None and self._client.wants_compiled:
            variants.append(compiled)
        return {
            variant.kind: ModelFile(
                await self._library.read(variant.content, accepted.manifest.deltas),
                variant.content.sha256,
            )
            for variant in variants
        }

    def _refuse(self, error: ManifestRefused) -> None:
        self.refused[error.reason] += 1
        self.last_refused = str(error)[:REASON_CHARACTERS_MAX]
        logger.warning("a manifest was refused: %s", self.last_refused)
        if error.manifest is not None:
            first = error.manifest.variants[0].content.sha256
            self._tell_status(error.manifest, first, "refused", self.last_refused)
        elif self.status is not None:  # of what nobody has signed not even its name is told
            self.status = msgspec.structs.replace(self.status, refused=dict(self.refused))
            self._tell(self.status)

    def _say(
        self, accepted: Accepted, state: Literal["active", "failed", "missing"], reason: str
    ) -> None:
        manifest = accepted.manifest
        if reason:
            logger.warning("model %s version %s: %s", manifest.name, manifest.version, reason)
        self._tell_status(manifest, accepted.variant.content.sha256, state, reason)

    def _tell_status(
        self,
        manifest: Manifest,
        sha256: str,
        state: Literal["active", "failed", "missing", "refused"],
        reason: str,
    ) -> None:
        self.status = ModelStatus(
            name=manifest.name,
            version=manifest.version,
            sha256=sha256,
            state=state,
            reason=reason[:REASON_CHARACTERS_MAX],
            running=self.active.manifest.version if self.active is not None else None,
            refused=dict(self.refused),
            at_ms=self._clock_ms(),
        )
        self._tell(self.status)
