"""What a device says of its model on `model-status/`, and what it counts.

Decides the words: one status for each change, with what runs at that moment and how often each reason came up so far;
a status says of one manifest how far it is, whatever manifest was heard of before. A manifest that nobody has signed is
counted, and not even its name is told. Assumes that whoever calls knows how far it is. On failure: nothing can fail.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from agent.limits import REASON_CHARACTERS_MAX
from agent.messages import ModelStatus
from agent.models.acceptance import sha256_in
from agent.models.rollout import RUNNING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.messages import ModelState
    from agent.models.acceptance import Accepted, ManifestRefused
    from agent.models.manifest import Manifest
    from agent.models.surroundings import Surroundings

__all__ = ["Telling"]

logger = logging.getLogger(__name__)

TELL_S: Final = 5.0
"""Whoever reaches a broker can say what nobody believes as often as they like; the fleet need not hear of each."""


class Telling:
    """Of one device and one model.

    Args:
        around: The device.
        running: What runs now.
        unbelieved: By reason, how often something was said of the model that no device believes.
    """

    def __init__(
        self,
        around: Surroundings,
        running: Callable[[], Accepted | None],
        unbelieved: Mapping[str, int],
    ) -> None:
        self._around = around
        self._running = running
        self._unbelieved = unbelieved
        self._told_unbelieved = 0
        self.status: ModelStatus | None = None
        """How the last change went."""
        self._refused: Counter[str] = Counter()
        self.last_refused = ""

    @property
    def refused(self) -> Counter[str]:
        """What was not believed, not taken up or not kept, by reason."""
        return self._refused + Counter(self._unbelieved)

    def count(self, word: str, text: str = "") -> None:
        """Count a reason, and remember its text, if there is one."""
        self._refused[word] += 1
        if text:
            self.last_refused = text[:REASON_CHARACTERS_MAX]

    def say(self, accepted: Accepted, state: ModelState, reason: str = "") -> None:
        """So far it is with a manifest that was taken up."""
        manifest = accepted.manifest
        if reason:
            logger.warning("model %s version %s: %s", manifest.name, manifest.version, reason)
        self._tell(manifest, accepted.sha256, accepted.variant.content.sha256, state, reason)

    def say_again(self) -> None:
        """The same as last, with what has changed since."""
        if self.status is not None:
            self.status = msgspec.structs.replace(
                self.status, running=self._running_version(), refused=dict(self.refused)
            )
            self._around.tell(self.status)

    def ended(self, reason: str) -> None:
        """Nothing runs any more until the device starts again; nor may others take what ran for healthy."""
        if self.status is not None:
            state = "rolled-back" if self.status.state in RUNNING else self.status.state
            reason = reason[:REASON_CHARACTERS_MAX]
            self.status = msgspec.structs.replace(
                self.status, state=state, reason=reason, running=None
            )
            self._around.tell(self.status)

    async def tell_unbelieved(self) -> None:
        """Say the same again for ever, each TELL_S at most, when something was said that no device believes."""
        while True:
            count = sum(self._unbelieved.values())
            if count > self._told_unbelieved:
                self._told_unbelieved = count
                self.last_refused = (
                    "what no operator has signed, said by a client or another device"
                )
                self.say_again()
            await asyncio.sleep(TELL_S)

    def refuse(self, error: ManifestRefused, payload: bytes, *, aloud: bool) -> None:
        """A manifest is not taken up.

        Args:
            error: Why.
            payload: As it stands on the topic.
            aloud: Whether to say of this one how it is, as far as an operator has signed it; else it is counted only.
        """
        self.count(error.reason, str(error))
        logger.warning("a manifest was refused: %s", self.last_refused)
        if aloud and error.manifest is not None:
            first = error.manifest.variants[0].content.sha256
            self._tell(error.manifest, sha256_in(payload), first, "refused", self.last_refused)
        else:
            self.say_again()

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
            running=self._running_version(),
            refused=dict(self.refused),
            at_ms=self._around.clock_ms(),
        )
        self._around.tell(self.status)

    def _running_version(self) -> str | None:
        running = self._running()
        return running.manifest.version if running is not None else None
