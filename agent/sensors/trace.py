"""A recorded junction as a sensor: replays a trace second by second, faster if wanted.

Decides the pace: second `n` of the trace comes at `started_ms + n * 1000 / speed` of the wall clock, plus a fraction
of a second that differs from junction to junction, as no two cameras tick together. So devices agree on the second,
and one that restarts goes on where the others are. The trace begins again when it ends; ticks go on.

A line that does not read is passed over and counted; a trace that is not there is a `SensorError` at the start.
"""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agent.errors import SensorError
from agent.messages import Reading
from agent.sensors.sensor import Observation, Sighting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

__all__ = ["APPROACHES", "TraceSensor", "make", "shipped_traces"]

APPROACHES: Final = ("n", "e", "s", "w")
SLEEP_S_MAX: Final = 1.0
"""The wall clock is looked at this often at least: a device that wakes in 1970 is put right while it waits."""
TRACE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Unpacked: ten hours of a busy junction. A gzip bomb ends here."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[sensor.options]` of a trace."""

    junction: str = ""
    """Which junction's trace; by default the one named like the device."""
    directory: str = ""
    """Where traces are; by default those that ship."""
    speed: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """Trace seconds per second."""
    started_ms: Annotated[int, Meta(ge=0)] = 0
    """Wall time of the trace's second 0, in milliseconds since 1970; 0: when the sensor starts."""
    ttl_ms: Annotated[int, Meta(ge=1_000, le=3_600_000)] = 60_000
    """How long an obstacle holds at the others without being repeated."""


class Line(msgspec.Struct, frozen=True):
    """One second of a trace."""

    phase: int
    standing: tuple[int, ...]
    vehicles: tuple[int, ...]
    speed_mps: tuple[float, ...]
    stopped: tuple[tuple[str, int, float], ...]


_decode: Final = msgspec.json.Decoder(Line).decode


def shipped_traces() -> Path:
    """The directory of the traces that ship with flockmq."""
    return Path(str(files("agent") / "data" / "traffic"))


def make(device: str, options: Mapping[str, Any]) -> TraceSensor:
    """The trace sensor of a device.

    Raises:
        SensorError: An option does not fit, or there is no such trace.
    """
    try:
        chosen = msgspec.convert(dict(options), Options)
    except msgspec.ValidationError as error:
        raise SensorError(f"[sensor.options]: {error}; see docs/configuration.md") from None
    directory = Path(chosen.directory) if chosen.directory else shipped_traces()
    junction = chosen.junction or device
    path = directory / f"{junction}.jsonl.gz"
    try:
        with gzip.open(path) as file:
            data = file.read(TRACE_BYTES_MAX + 1)
    except FileNotFoundError:
        there = sorted(p.name.removesuffix(".jsonl.gz") for p in directory.glob("*.jsonl.gz"))
        raise SensorError(
            f"there is no trace {path}; set junction in [sensor.options] to one of: "
            f"{', '.join(there) or 'none in that directory'}"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise SensorError(f"the trace {path} cannot be read: {error}; record it again") from None
    if len(data) > TRACE_BYTES_MAX:
        raise SensorError(f"the trace {path} unpacks to more than {TRACE_BYTES_MAX} bytes")
    lines = data.splitlines()
    if not lines:
        raise SensorError(f"the trace {path} is empty; record it again")
    return TraceSensor(junction, lines, chosen)


class TraceSensor:
    """Replays one junction."""

    def __init__(self, junction: str, lines: list[bytes], options: Options) -> None:
        self._lines = lines
        self._tick_ns = int(1e9 / options.speed)
        self._offset_ns = zlib.crc32(junction.encode()) % 1000 * self._tick_ns // 1000
        self._started_ms = options.started_ms
        self.ttl_ms = options.ttl_ms
        self.unreadable = 0

    async def observations(self) -> AsyncIterator[Observation]:
        """One observation a tick, for ever."""
        begun_ns = time.monotonic_ns()
        tick = max(0, -((self._start_ns(begun_ns) - begun_ns) // self._tick_ns))
        while True:
            while (  # noqa: ASYNC110 - for a moment of the wall clock, which may jump
                wait_ns := self._start_ns(begun_ns) + tick * self._tick_ns - time.monotonic_ns()
            ) > 0:
                await asyncio.sleep(min(wait_ns / 1e9, SLEEP_S_MAX))
            observation = self._observe(tick)
            if observation is not None:
                yield observation
            # A device that was busy, or whose clock was put right, goes on with the present.
            tick = max(tick + 1, (time.monotonic_ns() - self._start_ns(begun_ns)) // self._tick_ns)

    def _start_ns(self, begun_ns: int) -> int:
        """When second 0 was, on the monotonic clock as the wall clock has it now; never after the sensor began."""
        start_ns = begun_ns
        if self._started_ms:
            ago_ns = time.time_ns() - self._started_ms * 1_000_000
            start_ns = min(begun_ns, time.monotonic_ns() - ago_ns)
        return start_ns + self._offset_ns

    def _observe(self, tick: int) -> Observation | None:
        try:
            line = _decode(self._lines[tick % len(self._lines)])
            sightings = tuple(
                Sighting(vehicle, "vehicle", APPROACHES[approach], distance_m)
                for vehicle, approach, distance_m in line.stopped
            )
        except (msgspec.DecodeError, IndexError):
            self.unreadable += 1
            return None
        reading = Reading(
            tick_s=float(tick),
            phase=line.phase,
            standing=line.standing,
            vehicles=line.vehicles,
            speed_mps=line.speed_mps,
            at_ms=time.time_ns() // 1_000_000,
        )
        return Observation(time.monotonic_ns(), reading, sightings)
