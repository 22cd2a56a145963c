"""A version is loaded and tried, and the disk knows of it before: it may take the whole device down.

Decides when the device itself going down counts against a version, and which trouble is not the version's, so that it
is tried again: no room for its bytes, a worker that does not start. Whether what loads is good is for `trial.py` to
say. Assumes that whoever began a trial says how it ended, or that the device ends. On failure: `VersionBad` or `Later`.
"""

from __future__ import annotations

import asyncio
import contextlib
from random import SystemRandom
from typing import TYPE_CHECKING, Final

from agent.infer.backend import InferenceError, ModelRejected, NoRoom
from agent.models.errors import Later
from agent.models.trial import VersionBad, accelerator_check, try_out
from broker.errors import SecretUnusable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.infer.kinds import Kind
    from agent.infer.standby import ModelFile, StandbyClient, Version
    from agent.models.acceptance import Acceptance, Accepted
    from agent.models.surroundings import Surroundings
    from agent.models.telling import Telling

__all__ = ["Attempts"]

TRY_AGAIN_S: Final = 5.0
"""After trouble with the worker that is no fault of the model. The worker needs 0.1 s to come back. Guess."""
ROOM_AGAIN_S: Final = 60.0
"""After there was no room in memory to hand a file over: something else may end. Guess."""
SPREAD_S: Final = 0.9
"""A version that replaces another is tried at some moment within so long, unless no other device is alive: a fleet that
fetches together is through together, and would else load and try it, and be slow, all at once. With ten devices on two
cores obstacles were 1.2 to 1.7 times as late as without a version instead of 1.7 to 2.9 times (docs/bench.md)."""
BOOTS_MAX: Final = 3
"""Boots that ended, other than in good order, while a version was tried, before it counts as the reason. Two may be
plugs. Guess."""


class Attempts:
    """Of one device and one model.

    Args:
        client: Where versions run.
        acceptance: Remembers what was begun.
        telling: Is told why a version is tried again.
        around: What this device's features fill, and whether others are alive.
    """

    def __init__(
        self,
        client: StandbyClient,
        acceptance: Acceptance,
        telling: Telling,
        around: Surroundings,
    ) -> None:
        self._client = client
        self._acceptance = acceptance
        self._telling = telling
        self._around = around
        self._begun: Accepted | None = None
        """Whose version is tried or watched, which was noted on the disk."""

    async def load(self, accepted: Accepted, files: Mapping[Kind, ModelFile]) -> Version:
        """Load a version, untried.

        Raises:
            ModelRejected: It does not load.
            Later: There is no room, or no worker.
        """
        try:
            return await self._client.prepare(files, accelerator_check(accepted.manifest))
        except ModelRejected:
            raise
        except NoRoom as error:
            raise self._later(accepted, error, ROOM_AGAIN_S) from None
        except (InferenceError, OSError) as error:
            raise self._later(accepted, error, TRY_AGAIN_S) from None

    async def make(
        self, accepted: Accepted, files: Mapping[Kind, ModelFile], running: Version | None
    ) -> tuple[Version, int | None]:
        """Load a version and try it.

        Args:
            accepted: Its manifest.
            files: Its files.
            running: What it is to replace.

        Returns:
            It may come into use; and what an inference takes in the one that runs.

        Raises:
            VersionBad: It may not.
            Later: It could not be tried.
        """
        if running is not None and self._around.fleet().alive:
            await asyncio.sleep(SystemRandom().uniform(0.0, SPREAD_S))
        try:
            await self._begin(accepted)
            version = await self.load(accepted, files)
        except ModelRejected as error:
            raise VersionBad("does not load", error.reason) from None
        except SecretUnusable as error:
            raise self._later(accepted, error, TRY_AGAIN_S) from None
        try:
            return version, await try_out(version, accepted.manifest, running, self._around.fits)
        except BaseException:
            self._client.retire(version)
            raise

    def over(self, accepted: Accepted) -> None:
        """It has proved itself or was found bad, and that is on the disk: nothing more to hold against it."""
        if self._begun is not None and self._begun.sha256 == accepted.sha256:
            self._begun = None

    def end(self) -> None:
        """The device is stopped in good order: that does not count against what is tried or watched."""
        if self._begun is not None:
            with contextlib.suppress(SecretUnusable):
                self._acceptance.end(self._begun)

    async def _begin(self, accepted: Accepted) -> None:
        if self._begun is not None and self._begun.sha256 == accepted.sha256:
            return
        boots = await asyncio.to_thread(self._acceptance.begin, accepted)
        self._begun = accepted
        if boots >= BOOTS_MAX:
            text = f"the device went down {boots} times while it was tried or watched"
            raise VersionBad("restarts", text)

    def _later(self, accepted: Accepted, error: Exception, pause_s: float) -> Later:
        self._telling.say(accepted, "waiting", f"{error}; it is tried again")
        return Later(pause_s)
