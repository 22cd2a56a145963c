"""Follows the fleet's model version: loads what the world says is current, tells the fleet how it went.

A version that is not on this device, or does not load, leaves the one before it running; the reason stands on
`model-status/`. A lower counter never comes here, since the world's register does not take it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Literal

from agent.errors import ModelMissing
from agent.infer.backend import InferenceError, ModelRejected
from agent.limits import REASON_CHARACTERS_MAX
from agent.messages import Model, ModelStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.infer.client import InferenceClient
    from agent.models.shipped import ModelFiles

__all__ = ["ModelFollower"]

logger = logging.getLogger(__name__)

TRY_AGAIN_S: Final = 5.0
"""After a load that failed through no fault of the model. The worker needs 0.1 s to come back. Guess."""


class ModelFollower:
    """Keeps one model current.

    Args:
        client: Where it is loaded.
        models: Where its bytes are.
        tell: Is given each new status.
        clock_ms: Wall time in milliseconds.
    """

    def __init__(
        self,
        client: InferenceClient,
        models: ModelFiles,
        tell: Callable[[ModelStatus], None],
        clock_ms: Callable[[], int],
    ) -> None:
        self._client = client
        self._models = models
        self._tell = tell
        self._clock_ms = clock_ms
        self._wanted: Model | None = None
        self._changed = asyncio.Event()
        self.active: Model | None = None
        """What runs now."""
        self.status: ModelStatus | None = None
        """How the last change went."""

    def want(self, model: Model) -> None:
        """The fleet's current version is this one. Said again, one that did not come up is tried again."""
        if model != self._wanted or (self.status is not None and self.status.state != "active"):
            self._wanted = model
            self._changed.set()

    async def run(self) -> None:
        """Load what is wanted, whenever that changes."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            model = self._wanted
            if model is None:
                continue
            if self.active is not None and self.active.sha256 == model.sha256:
                self.active = model
                self._say(model, "active", "")
                continue
            try:
                data = await asyncio.to_thread(self._models.read, model.sha256)
                await self._client.load(data, model.sha256)
            except ModelMissing as error:
                self._say(model, "missing", str(error))
            except ModelRejected as error:
                self._say(model, "failed", error.reason)
            except InferenceError as error:
                # The worker's trouble, not the model's: it passes.
                self._say(model, "failed", f"{error.reason}; it is tried again")
                await asyncio.sleep(TRY_AGAIN_S)
                self._changed.set()
            else:
                self.active = model
                self._say(model, "active", "")

    def _say(
        self, model: Model, state: Literal["active", "failed", "missing"], reason: str
    ) -> None:
        if reason:
            logger.warning("model %s version %s: %s", model.name, model.version, reason)
        self.status = ModelStatus(
            name=model.name,
            version=model.version,
            sha256=model.sha256,
            state=state,
            reason=reason[:REASON_CHARACTERS_MAX],
            at_ms=self._clock_ms(),
        )
        self._tell(self.status)
