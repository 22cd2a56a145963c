"""Whether devices are there: what this one says of itself, and when it says of another that it is lost.

A will on a device's own broker dies with the device, so its neighbours speak for it. Whoever had a link to a device
that is now silent beyond its patience publishes `lost`, quoting the incarnation and refutation it knew, once for each.
A device that hears itself called lost answers with a higher refutation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agent.messages import Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.snapshot import Snapshot

__all__ = ["Presence"]


class Presence:
    """What one device says about presence.

    Args:
        device: This device.
        incarnation: Its boot.
    """

    def __init__(self, device: str, incarnation: int) -> None:
        self._device = device
        self._incarnation = incarnation
        self._refutation = 0
        self._said_lost: dict[str, tuple[int, int]] = {}

    def say(self, state: Literal["up", "down"], at_ms: int) -> Status:
        """This device's own status."""
        return Status(
            state=state,
            incarnation=self._incarnation,
            refutation=self._refutation,
            at_ms=at_ms,
            by=self._device,
        )

    def refute(self, heard: Status, at_ms: int) -> Status | None:
        """The answer to what was heard of this device, if it needs one."""
        if heard.state == "up" or heard.incarnation != self._incarnation:
            return None
        self._refutation = max(self._refutation, heard.refutation) + 1
        return self.say("up", at_ms)

    def lost(
        self, former_neighbours: Iterable[str], world: Snapshot, now_ns: int, at_ms: int
    ) -> list[tuple[str, Status]]:
        """Whom to call lost now: (device, its status)."""
        alive = set(world.alive(now_ns))
        found: list[tuple[str, Status]] = []
        for name in sorted(former_neighbours):
            status = world.status.get(name)
            if name in alive or status is None or status.state != "up":
                continue
            known = (status.incarnation, status.refutation)
            if self._said_lost.get(name, (-1, -1)) >= known:
                continue
            self._said_lost[name] = known
            found.append(
                (
                    name,
                    Status(
                        state="lost",
                        incarnation=status.incarnation,
                        refutation=status.refutation,
                        at_ms=at_ms,
                        by=self._device,
                    ),
                )
            )
        return found
