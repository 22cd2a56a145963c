"""A device waits until it may try a version, where the version's manifest asks for canaries.

Joins `rollout.py`, which decides, to what is seen of the fleet, and says for whom the device waits. Assumes that others
say what is true of themselves, and nothing of their words. On failure: it waits, and says for whom.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from agent.models.rollout import Rollout, Said

if TYPE_CHECKING:
    from agent.models.acceptance import Accepted
    from agent.models.surroundings import Surroundings
    from agent.models.telling import Telling

__all__ = ["Canaries"]

LOOK_S: Final = 0.5
"""How often to look whether others have tried a version. Its health window is seconds to hours."""
TELL_S: Final = 5.0
"""How often to say anew for whom a version waits, at most: each word of one device about it could bring about one of
every other's. Guess."""


class Canaries:
    """Of one device and one model.

    Args:
        around: The device.
        telling: Is told for whom it waits.
    """

    def __init__(self, around: Surroundings, telling: Telling) -> None:
        self._around = around
        self._telling = telling
        self._rollout: tuple[str, Rollout] | None = None
        """Of the manifest with that digest: who waits again goes on where it was."""

    async def wait(self, accepted: Accepted) -> None:
        """Until this device may try it: it is a canary itself, or they have done well."""
        rollout = self._of(accepted)
        told: tuple[str, int] | None = None
        told_s = -TELL_S
        while True:
            fleet = self._around.fleet()
            said = {
                device: Said(status.state, _printable(status.reason))
                for device, status in fleet.statuses.items()
                if status.manifest == accepted.sha256
            }
            clearance = rollout.look(fleet.alive, said, time.monotonic_ns())
            if clearance.state == "go":
                return
            now_s = time.monotonic()
            if (clearance.state, rollout.round) != told and now_s >= told_s + TELL_S:
                told, told_s = (clearance.state, rollout.round), now_s
                self._telling.say(accepted, clearance.state, clearance.reason)
            await asyncio.sleep(LOOK_S)

    def _of(self, accepted: Accepted) -> Rollout:
        if self._rollout is None or self._rollout[0] != accepted.sha256:
            spec = accepted.manifest.rollout
            rollout = Rollout(
                accepted.sha256,
                spec.canary_share,
                spec.health_window_s,
                self._around.device,
                time.monotonic_ns(),
            )
            self._rollout = (accepted.sha256, rollout)
        return self._rollout[1]


def _printable(text: str) -> str:
    """Another device's words, fit for a log."""
    return "".join(each if each.isprintable() else " " for each in text)
