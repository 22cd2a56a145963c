"""Whether devices are there: what this one says of itself, and when it says of another that it is lost.

A will on a device's own broker dies with the device, so its neighbours speak for it. Whoever had a link to a device
that is now silent beyond its patience publishes `lost`, quoting the incarnation and refutation it knew, once for each.
A device that hears itself called lost answers with a higher refutation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from agent.messages import Status
from broker.topics import REFUTATION_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.snapshot import Snapshot

__all__ = ["Presence"]

REFUTATION_MAX: Final = 2**REFUTATION_BITS - 1


class Presence:
    """What one device says about presence.

    Args:
        device: This device.
        incarnation: Its boot; asked for each time, since the mesh may go above it when a disk was lost.
        rise_above: Has the mesh go above one.
    """

    def __init__(
        self, device: str, incarnation: Callable[[], int], rise_above: Callable[[int], None]
    ) -> None:
        self._device = device
        self._incarnation = incarnation
        self._rise_above = rise_above
        self._refutation = 0
        self._said_lost: dict[str, tuple[int, int]] = {}

    def say(self, state: Literal["up", "down"], at_ms: int) -> Status:
        """This device's own status."""
        return Status(
            state=state,
            incarnation=self._incarnation(),
            refutation=self._refutation,
            at_ms=at_ms,
            by=self._device,
        )

    def refute(self, believed: Status | None, at_ms: int) -> Status | None:
        """What to say to what the fleet believes of this device, if it is not that it is up in this incarnation.

        What is said of a life that it has not had yet, or that leaves no room to deny it, takes a life above that.
        """
        mine = self._incarnation()
        if believed is not None and (
            believed.incarnation > mine
            or (believed.incarnation == mine and believed.refutation >= REFUTATION_MAX)
        ):
            self._rise_above(believed.incarnation)
            mine = self._incarnation()
        if believed is not None and believed.incarnation == mine:
            if believed.state == "up":
                return None
            self._refutation = max(self._refutation, believed.refutation) + 1
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
