"""A sensor of one's own: a parking lot that counts its free places. See the README, "Your own sensor".

A module with a `make(device, options)` is a sensor; `device.toml` names it as `examples.parking_sensor:make`.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from agent.messages import Reading
from agent.sensors.sensor import Observation, Sighting

PLACES = 16


class ParkingSensor:
    """Pretends to watch four rows of places; put your camera or serial port where `random` is."""

    ttl_ms = 30_000

    def __init__(self, seed: int, period_s: float) -> None:
        self._random = random.Random(seed)  # noqa: S311 - it only plays a parking lot
        self._period_s = period_s
        self._taken = [PLACES, 0, 0, 0]

    async def observations(self) -> AsyncIterator[Observation]:
        """One observation per period."""
        tick = 0
        while True:
            row = self._random.randrange(4)
            self._taken[row] = min(PLACES, max(0, self._taken[row] + self._random.choice((-1, 1))))
            yield Observation(time.monotonic_ns(), self._reading(tick), self._sightings())
            tick += 1
            await asyncio.sleep(self._period_s)

    def _reading(self, tick: int) -> Reading:
        return Reading(
            tick_s=float(tick),
            phase=0,
            standing=tuple(self._taken),
            vehicles=tuple(self._taken),
            speed_mps=(0.0, 0.0, 0.0, 0.0),
            at_ms=time.time_ns() // 1_000_000,
        )

    def _sightings(self) -> tuple[Sighting, ...]:
        """A full row is in the way of whoever looks for a place there."""
        return tuple(
            Sighting(f"row-{row}", "full-row", str(row), 0.0)
            for row, taken in enumerate(self._taken)
            if taken == PLACES
        )


def make(device: str, options: Mapping[str, Any]) -> ParkingSensor:
    """What `[sensor] factory` names."""
    return ParkingSensor(seed=len(device), period_s=float(options.get("period_s", 1.0)))
