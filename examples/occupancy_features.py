"""Features of one's own, for a model of one's own. See the README, "Your own model".

A module with a `make(device, options)` that returns features; `device.toml` names it as
`examples.occupancy_features:make`. The model takes float32 of shape (1, 4): how full this lot is, how full the lots of
the others are, how many others were heard, and how many full rows all of them report.
"""

from collections.abc import Mapping
from typing import Any

from agent.infer.backend import FloatArray
from agent.sensors.sensor import Observation
from agent.snapshot import Snapshot

PLACES = 4 * 16


class OccupancyFeatures:
    """Own occupancy beside the mean of all others that were heard."""

    horizon_s = 0.0

    def __init__(self) -> None:
        self._values = (0.0, 0.0, 0.0, 0.0)

    def note(self, observation: Observation, world: Snapshot) -> None:
        """Called for each observation, with the world as it is at that moment."""
        own = sum(observation.reading.standing) / PLACES
        heard = [
            sum(reading.message.standing) / PLACES
            for (device, _), reading in world.readings.items()
            if device != world.device
        ]
        others = sum(heard) / len(heard) if heard else own
        self._values = (own, others, float(len(heard)), float(len(world.obstacles)))

    def fill(self, into: FloatArray) -> None:
        """Called just before the model runs; overwrites all of the model's input."""
        if into.shape != (1, 4):
            raise ValueError(f"these features fill an input of shape (1, 4), not {into.shape}")
        into[0] = self._values

    def state_age_ns(self) -> int:
        """Nothing to tell of."""
        return 0


def make(device: str, options: Mapping[str, Any]) -> OccupancyFeatures:
    """What `[model] features` names."""
    del device, options
    return OccupancyFeatures()
