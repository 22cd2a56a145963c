"""Traffic features on a device: from readings and the world to the forecaster's input, and what came true.

`make` is what `[model] features` names by default. Features of one's own are another module with a `make` that
returns a `Features`.
"""

from __future__ import annotations

import json
import time
from collections import deque
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from agent.errors import ModelMissing
from agent.infer.features import APPROACHES, HORIZON_S, PHASES, FeatureWindow
from agent.infer.features import Reading as Row
from agent.sensors.sensor import SENSOR_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.infer.backend import FloatArray
    from agent.messages import Reading
    from agent.sensors.sensor import Observation
    from agent.snapshot import Snapshot

__all__ = ["Features", "Judge", "Judged", "TrafficFeatures", "make"]

PENDING_MAX: Final = 256
"""Forecasts whose moment has not come: a horizon of 30 s at 1 Hz, eight times over."""
STALE_S: Final = 5.0
"""Trace seconds after which a neighbour's reading says nothing of now: a sixth of the horizon. Guess."""


class Features(Protocol):
    """What a model is fed with."""

    horizon_s: float
    """How far ahead the model's output lies."""

    def note(self, observation: Observation, world: Snapshot) -> None:
        """Take in an observation and the world beside it; called for each, in order."""

    def fill(self, into: FloatArray) -> None:
        """Overwrite all of `into`, float32 of the model's input shape.

        Raises:
            ValueError: `into` has another shape than these features.
        """

    def state_age_ns(self) -> int:
        """How old the oldest of the others' readings is that went in; 0 when there was none."""


class TrafficFeatures:
    """The last minute of a junction and of the junctions upstream of it."""

    horizon_s = float(HORIZON_S)

    def __init__(self, upstream: list[str | None]) -> None:
        self._upstream = [name for name in upstream if name is not None]
        self._window = FeatureWindow(upstream)
        self._oldest_ns: int | None = None

    def note(self, observation: Observation, world: Snapshot) -> None:
        """One row; an upstream junction that says nothing any more counts as unknown."""
        neighbours: dict[str, Row | None] = {}
        self._oldest_ns = None
        tick_s = observation.reading.tick_s
        for name in self._upstream:
            heard = world.readings.get((name, SENSOR_NAME))
            if heard is None or abs(tick_s - heard.message.tick_s) > STALE_S:
                continue
            if not _is_junction(heard.message):
                continue  # another kind of sensor: it says nothing about a junction
            neighbours[name] = _row(heard.message)
            self._oldest_ns = min(heard.heard_ns, self._oldest_ns or heard.heard_ns)
        self._window.push(int(tick_s), _row(observation.reading), neighbours)

    def fill(self, into: FloatArray) -> None:
        """The window, oldest second first."""
        self._window.write_into(into)

    def state_age_ns(self) -> int:
        """Age of the oldest upstream reading used."""
        return 0 if self._oldest_ns is None else time.monotonic_ns() - self._oldest_ns


def _is_junction(reading: Reading) -> bool:
    sizes = {len(reading.standing), len(reading.vehicles), len(reading.speed_mps)}
    return sizes == {APPROACHES} and reading.phase < PHASES


def _row(reading: Reading) -> Row:
    return Row(reading.phase, reading.standing, reading.vehicles, reading.speed_mps)


def make(device: str, options: Mapping[str, Any]) -> TrafficFeatures:
    """Features of a junction of the traffic network.

    Args:
        device: The device's id.
        options: `junction` (default: the device's id), `network` (a network.json; default: the one that ships).

    Raises:
        ModelMissing: There is no such network or junction.
    """
    junction = str(options.get("junction", device))
    path = Path(str(options.get("network") or files("agent") / "data" / "traffic" / "network.json"))
    try:
        junctions = json.loads(path.read_bytes())["junctions"]
        rows = {row["id"]: [a["upstream"] for a in row["approaches"]] for row in junctions}
        return TrafficFeatures(rows[junction])
    except OSError as error:
        raise ModelMissing(f"the road network {path} cannot be read: {error.strerror}") from None
    except KeyError:
        raise ModelMissing(
            f"{path} has no junction {junction}; set junction in [model.options]"
        ) from None
    except (ValueError, TypeError) as error:
        raise ModelMissing(f"{path} is not a road network: {error}") from None


class Judged(NamedTuple):
    """A forecast held against what came: sums of absolute errors over `values` values."""

    error: float
    persistence_error: float
    values: int


class Judge:
    """Holds forecasts until their moment has come."""

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = horizon_s
        self._pending: deque[tuple[float, Sequence[float], Sequence[float]]] = deque(
            maxlen=PENDING_MAX
        )

    def forecast(self, made_at_s: float, now: Sequence[float], forecast: Sequence[float]) -> None:
        """A forecast was made at `made_at_s` of the trace, when things stood as `now`."""
        self._pending.append((made_at_s + self._horizon_s, tuple(now), tuple(forecast)))

    def came(self, at_s: float, truth: Sequence[float]) -> Judged | None:
        """What a forecast for `at_s` was worth; None if there was none."""
        judged: Judged | None = None
        while self._pending and self._pending[0][0] <= at_s:
            due_s, then, forecast = self._pending.popleft()
            if due_s == at_s and len(forecast) == len(truth) == len(then):
                judged = Judged(
                    sum(abs(f - t) for f, t in zip(forecast, truth, strict=True)),
                    sum(abs(p - t) for p, t in zip(then, truth, strict=True)),
                    len(truth),
                )
        return judged
