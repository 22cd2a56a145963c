"""What a device says once in a while: heartbeat, counts, links, resources, and who has fallen silent.

Decides the rhythm and nothing else. The failure detector of the others expects HEARTBEAT_S.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Literal

from agent.messages import Heartbeat, Link, Resources
from agent.replicas import replica_name, to_count
from agent.resources import CpuMeter, rss_mb, temperature_c
from broker import topic_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.presence import Presence
    from agent.publisher import Publisher
    from agent.world import World

__all__ = ["Rhythm"]

HEARTBEAT_S: Final = 1.0
"""The interval that the failure detector expects (agent/liveness.py)."""
SLOW_S: Final = 5.0
"""Resources and links: half their lifetime on the mesh."""
FORMER_NEIGHBOURS_MAX: Final = 256
"""Devices that a link was lost to and that this one may have to call lost: four times the links of a hub. Guess."""
LOST_FROM_S: Final = 5.0
"""Nobody is called lost before so long after the start: their heartbeats must have had time to come."""
COUNT_FROM_S: Final = 5.0
"""Counts begin so long after the start, and not while the mesh is joining: a device that lost its disk first hears
what it had counted before, since what it publishes takes the place of that."""
COUNT_ALONE_FROM_S: Final = 15.0
"""A device that meets nobody counts from here on. Guess."""
COUNT_NAME: Final = "obstacles"


class Rhythm:
    """The regular speech of one device.

    Args:
        publisher: How it speaks.
        world: What it knows.
        presence: What it says of presence.
        worker_pid: The inference worker, for its memory.
        neighbours: Whom this device is to be linked to, and speaks for if they stay away.
    """

    def __init__(
        self,
        publisher: Publisher,
        world: World,
        presence: Presence,
        worker_pid: Callable[[], int | None],
        neighbours: Iterable[str],
    ) -> None:
        self._publisher = publisher
        self._node = publisher.node
        self._site, self._device = publisher.site, publisher.device
        self._world = world
        self._presence = presence
        self._worker_pid = worker_pid
        self._links_up: set[str] = set()
        self._links_lost: dict[str, None] = dict.fromkeys(neighbours)
        self._counted = 0
        self._sequence = 0
        self._loop_lag_ms = 0.0
        self._cpu = CpuMeter()
        self._started_ns = time.monotonic_ns()

    @property
    def uptime_s(self) -> float:
        """Since the device was made."""
        return (time.monotonic_ns() - self._started_ns) / 1e9

    def count(self, obstacles: int) -> None:
        """So many new obstacles were reported."""
        self._counted += obstacles

    def link(self, peer: str, up: bool) -> None:  # noqa: FBT001 - called by the node
        """A link to a neighbour is there now, or not any more."""
        if up:
            self._links_up.add(peer)
            self._links_lost.pop(peer, None)
        else:
            self._links_up.discard(peer)
            self._links_lost[peer] = None
            if len(self._links_lost) > FORMER_NEIGHBOURS_MAX:
                del self._links_lost[next(iter(self._links_lost))]
            self._world.liveness.link_lost(peer)
            self._say_link(peer, "down", None)

    async def run(self) -> None:
        """Speak until cancelled."""
        slow_at = 0.0
        while True:
            before = time.monotonic()
            self._speak()
            if before >= slow_at:
                slow_at = before + SLOW_S
                self._speak_slowly()
            await asyncio.sleep(HEARTBEAT_S)
            lag_s = max(0.0, time.monotonic() - before - HEARTBEAT_S)
            self._loop_lag_ms = lag_s * 1000
            self._world.liveness.loop_lag(int(lag_s * 1e9))

    def _speak(self) -> None:
        now_ms = self._publisher.now_ms()
        self._world.expire(self._node.clock())
        self._sequence += 1
        self._publisher.say(
            topic_names.heartbeat_topic(site=self._site, device=self._device),
            Heartbeat(
                at_ms=now_ms,
                incarnation=self._node.incarnation,
                uptime_s=self.uptime_s,
                links=len(self._links_up),
                sequence=self._sequence,
            ),
        )
        self._say_presence(now_ms)
        self.say_count()

    def _say_presence(self, now_ms: int) -> None:
        """This device's own status, unless the fleet has it right; and who of its neighbours is lost."""
        snapshot = self._world.snapshot()
        answer = self._presence.refute(snapshot.status.get(self._device), now_ms)
        if answer is not None:
            self._publisher.say(
                topic_names.status_topic(site=self._site, device=self._device), answer
            )
        if self.uptime_s < LOST_FROM_S:
            return
        lost = self._presence.lost(self._links_lost, snapshot, time.monotonic_ns(), now_ms)
        for name, status in lost:
            self._publisher.say(topic_names.status_topic(site=self._site, device=name), status)

    def say_count(self) -> None:
        """Publish what was counted since the last time."""
        if not self._counted or not self._may_count():
            return
        replica = replica_name(self._device, self._node.incarnation)
        counter = self._world.counter(COUNT_NAME).add(replica, self._counted)
        topic = topic_names.count_topic(site=self._site, device=self._device, name=COUNT_NAME)
        if self._publisher.say(topic, to_count(self._device, counter)):
            self._counted = 0

    def _may_count(self) -> bool:
        uptime_s = self.uptime_s
        if self._node.joining:
            return uptime_s >= COUNT_ALONE_FROM_S
        return uptime_s >= COUNT_FROM_S

    def _speak_slowly(self) -> None:
        now_ms = self._publisher.now_ms()
        worker = self._worker_pid()
        self._publisher.say(
            topic_names.resources_topic(site=self._site, device=self._device),
            Resources(
                cpu_percent=self._cpu.percent(),
                rss_mb=rss_mb() + (rss_mb(worker) if worker else 0.0),
                loop_lag_ms=self._loop_lag_ms,
                temperature_c=temperature_c(),
                at_ms=now_ms,
            ),
        )
        for peer in self._node.statistics().mesh.peers:
            self._say_link(peer.name, "up" if peer.established else "down", peer.rtt_ms)

    def _say_link(self, peer: str, state: Literal["up", "down"], rtt_ms: float | None) -> None:
        if topic_names.is_id(peer):
            self._publisher.say(
                topic_names.link_topic(site=self._site, device=self._device, neighbour=peer),
                Link(state=state, rtt_ms=rtt_ms, at_ms=self._publisher.now_ms()),
            )
