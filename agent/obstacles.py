"""From what a sensor sees to obstacle events: present, still present, gone.

Decides when an obstacle is said again: at half its lifetime, so that a dead device's obstacles fade and a standing
one's do not. Versions of an id count on for as long as an event of it may be alive anywhere; they begin at
`incarnation << BOOT_BITS`, so a device that sees before it remembers never uses a version twice. Own events that come
back as memory are taken up by `remember`: what is not seen again is said to be gone.

Assumes ids stay the same as long as the thing is in sight. At most OBSTACLES_MAX are in sight; more are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from agent.messages import Obstacle
from agent.sensors.sensor import Sighting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["OBSTACLES_MAX", "ObstacleBook"]

OBSTACLES_MAX: Final = 512
"""In sight of one device at a time: sixteen cameras full of cars."""


BOOT_BITS: Final = 20
"""A million events about one thing within one boot; 32 bits of incarnation above stay within JSON's integers."""


class _Said(NamedTuple):
    version: int
    present: bool
    sighting: Sighting
    at_ms: int


class ObstacleBook:
    """What this device has said of obstacles.

    Args:
        ttl_ms: Lifetime of every event.
        incarnation: This boot's; asked for each time, since the mesh may go above it when a disk was lost.
    """

    def __init__(self, ttl_ms: int, incarnation: Callable[[], int]) -> None:
        self._ttl_ms = ttl_ms
        self._incarnation = incarnation
        self.appeared = 0
        """Obstacles that came into sight, each once however often it is said."""
        self._said: dict[str, _Said] = {}

    def remember(self, obstacle: str, event: Obstacle) -> None:
        """Take up an own event from before a restart; if it is not seen again, it is said to be gone."""
        said = self._said.get(obstacle)
        if said is None or said.version < event.version:
            sighting = Sighting(obstacle, event.kind, event.approach, event.distance_m)
            present = event.state == "present"
            self._said[obstacle] = _Said(event.version, present, sighting, event.at_ms)

    def see(self, sightings: Iterable[Sighting], at_ms: int) -> list[tuple[str, Obstacle]]:
        """The events, by obstacle id, that tell what has changed."""
        events: list[tuple[str, Obstacle]] = []
        seen: set[str] = set()
        for sighting in sightings:
            if len(seen) >= OBSTACLES_MAX:
                break
            seen.add(sighting.id)
            said = self._said.get(sighting.id)
            if said is None or not said.present or at_ms - said.at_ms >= self._ttl_ms // 2:
                events.append((sighting.id, self._say(sighting, "present", at_ms)))
        for obstacle, said in list(self._said.items()):
            if said.present and obstacle not in seen:
                events.append((obstacle, self._say(said.sighting, "gone", at_ms)))
            elif not said.present and at_ms - said.at_ms > self._ttl_ms:
                del self._said[obstacle]
        return events

    def _say(self, sighting: Sighting, state: Literal["present", "gone"], at_ms: int) -> Obstacle:
        said = self._said.get(sighting.id)
        version = max(said.version + 1 if said else 0, (self._incarnation() << BOOT_BITS) + 1)
        self.appeared += state == "present" and not (said and said.present)
        self._said[sighting.id] = _Said(version, state == "present", sighting, at_ms)
        return Obstacle(
            kind=sighting.kind,
            state=state,
            approach=sighting.approach,
            distance_m=sighting.distance_m,
            version=version,
            at_ms=at_ms,
            ttl_ms=self._ttl_ms,
        )
