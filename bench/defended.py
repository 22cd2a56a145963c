"""A device of the fleet that `attacks` attacks: publishes obstacles at a rate, reduces those of the others, and counts.

Times are of CLOCK_MONOTONIC, which all processes of a machine share: an update's latency is from the moment at which it
is handed over to its device until another device's world has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from agent.world import World
from bench.role import Part
from bench.systems.flockmq import Holder
from bench.traffic import FORGED, SITE, updates, version_of
from bench.waiting import until
from broker.errors import Refused
from broker.topics import classify, parse

if TYPE_CHECKING:
    from broker.node import Delivered

__all__ = ["BELIEVED", "Defended"]

BELIEVED: Final = "believed: "
"""Before the names of what was taken and should not have been."""
_WAIT_S: Final = 0.005


class Defended(Holder, Part):
    """One device."""

    async def open(self, *, device: str, **settings: Any) -> list[int]:
        """Start; returns the port for TLS, and the plain one."""
        self._device = device
        self._world = World(SITE, device)
        self._heard: list[tuple[str, int, int]] = []
        self._number = 0
        self._believed: Counter[str] = Counter()
        port = await self.start_node(device, **settings)
        self.node.subscribe(self._take)
        return [port, self.node.port]

    async def publish(self, *, at_ns: int, count: int, rate: float) -> list[tuple[int, int]]:
        """Publish so many updates from a moment on; returns number and moment of each that was taken."""
        first, self._number = self._number, self._number + count
        said = []
        for turn, (topic, payload) in enumerate(updates(first, count, self._device)):
            wait_s = at_ns / 1e9 + turn / rate - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            handed_ns = time.monotonic_ns()
            with contextlib.suppress(Refused):  # it is missing, then
                self.node.publish_nowait(topic, payload)
                said.append((first + turn, handed_ns))
        return said

    async def heard(
        self, *, origins: list[str], count: int, within_s: float
    ) -> list[tuple[str, int, int]]:
        """Origin, number and when it was reduced, of each update since the last call.

        Returns when so many of each of these origins are there, or when the time is up.
        """

        def all_there() -> bool:
            origins_heard = [origin for origin, _, _ in self._heard]
            return all(origins_heard.count(origin) >= count for origin in origins)

        await until(all_there, within_s=within_s, every_s=_WAIT_S)
        heard, self._heard = self._heard, []
        return heard

    async def counted(self) -> dict[str, int]:
        """What was refused, dropped or given up so far, and what was believed that should not have been, by name."""
        statistics = self.node.statistics()
        counters = statistics.broker.counters
        assert self.trust is not None, "a fleet without identities is not attacked here"
        found = {f"refused: {reason}": n for reason, n in self.trust.statistics().refused.items()}
        found |= {f"tags: {reason}": n for reason, n in statistics.mesh.refused_tags.items()}
        found |= {f"mesh: {name}": n for name, n in statistics.mesh.counters.items()}
        found |= {
            f"clients: {name}": n
            for name in type(counters).__slots__
            if isinstance(n := getattr(counters, name), int)
        }
        return found | {f"{BELIEVED}{what}": n for what, n in self._believed.items()}

    def _take(self, batch: list[Delivered]) -> None:
        self._world.apply_batch(batch, time.monotonic_ns())
        now_ns = time.monotonic_ns()
        for message in batch:
            name, named = classify(message.topic).name, parse(message.topic)
            if name == "obstacle" and message.origin == named["device"]:
                self._heard.append((message.origin, version_of(message.payload) - 1, now_ns))
            elif name == "obstacle":
                self._believed["in another's name"] += 1
            elif name == "model":
                self._believed["a model version"] += 1
            elif message.topic == FORGED:
                self._believed["forged"] += 1
