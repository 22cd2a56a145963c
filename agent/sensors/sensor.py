"""The seam of sensors: whatever yields observations is one.

A sensor of one's own is a module with a `make(device, options)` that returns a `Sensor`, or raises `SensorError` when
the options do not fit or the source is not there; `device.toml` names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.messages import Reading

__all__ = [
    "SENSOR_NAME",
    "Observation",
    "Reporting",
    "Sensor",
    "SensorReport",
    "Sighting",
]


SENSOR_NAME: Final = "junction"
"""What a device's one sensor is called in topics."""


class Sighting(NamedTuple):
    """Something in the way, as long as the sensor sees it."""

    id: str
    """The observer's id for it, `[a-z0-9-]{1,32}`; the same from one observation to the next."""
    kind: str
    approach: str
    distance_m: float


class Observation(NamedTuple):
    """What a sensor saw at one moment."""

    captured_ns: int
    """Monotonic."""
    reading: Reading
    sightings: tuple[Sighting, ...]
    """All that is in the way now; what was there before and is missing here is gone."""


class Sensor(Protocol):
    """A source of observations."""

    ttl_ms: int
    """How long a sighting holds at the others without being repeated."""

    def observations(self) -> AsyncIterator[Observation]:
        """Observations as they are made, until the sensor ends.

        Raises:
            SensorError: The sensor is gone for good.
        """


class SensorReport(NamedTuple):
    """How a sensor is, for `flockmq status`."""

    source: str
    """What it reads, without secrets."""
    state: str
    """`delivering` when all is well."""
    last_problem: str
    """Without secrets; empty: there is none."""
    counters: dict[str, int]
    runs_on: str = ""
    """What its model runs on, and why not on an Edge TPU; empty: it has none."""


@runtime_checkable
class Reporting(Protocol):
    """A sensor that says how it is; it may leave that out."""

    def report(self) -> SensorReport:
        """How it is now."""
