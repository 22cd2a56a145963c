"""A whole device of `models`: it sees obstacles, infers on what it sees, and follows the fleet's model.

What is watched of it: when each version came into use, how late obstacles of others came, from the moment at which
their sensor was due to see them, and what became of its inferences. All moments are of CLOCK_MONOTONIC, which all
processes of a machine share; an obstacle carries the moment in its id, so that nothing has to be put together later,
and a sensor that its device held up counts as late.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from agent.config import BrokerConfig, Config, ModelConfig, SensorConfig, TlsConfig
from agent.demo.procfs import cpu_s, family
from agent.device import Device
from agent.messages import Reading
from agent.sensors.sensor import Observation, Sighting
from bench.role import Part
from bench.stage import BenchFailed
from bench.waiting import until
from broker.link import Neighbour

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from agent.infer.backend import FloatArray
    from agent.snapshot import Snapshot

__all__ = ["GREY", "MODEL", "SITE", "Modelled", "features", "sensor"]

SITE: Final = "city"
MODEL: Final = "classes"
GREY: Final = 0.5
"""Of all that the model sees."""
_SEEN: Final = "at-"
"""What an obstacle's id begins with; the moment follows."""
_PRESENT: Final = "present"


class Modelled(Part):
    """One device."""

    async def open(
        self, *, device: str, state: str, identity: str, models: str | None, rate: float
    ) -> int:
        """Start without neighbours; returns the port that they dial. `models`: a folder of versions."""
        self._noted = Noted()
        self._device = Device(
            Config(
                device=device,
                site=SITE,
                state=state,
                broker=BrokerConfig(port=0),
                tls=TlsConfig(identity=identity, host="127.0.0.1", port=0),
                sensor=SensorConfig("bench.models_device:sensor", {"rate": rate}),
                model=ModelConfig(
                    name=MODEL, directory=models, features="bench.models_device:features"
                ),
            ),
            self._noted,
        )
        await self._device.start()
        return self._device.node.link_port

    async def dial(self, *, neighbours: list[list[Any]]) -> None:
        """Dial these (name, port)."""
        for name, port in neighbours:
            self._device.node.dial(Neighbour(name, "127.0.0.1", port))

    async def linked(self, *, links: int) -> None:
        """Wait until so many neighbours have introduced themselves."""
        node = self._device.node
        await until(lambda: sum(peer.established for peer in node.statistics().mesh.peers) >= links)

    async def publish(self, *, manifest: str) -> int:
        """Make a version the fleet's; returns the moment before."""
        now_ns = time.monotonic_ns()
        await self._device.publish_model(manifest.encode())
        return now_ns

    async def active(self, *, sha256: str, within_s: float) -> int:
        """When that content came into use here.

        Raises:
            BenchFailed: Not in time.
        """
        if not await until(lambda: sha256 in self._noted.active, within_s=within_s, every_s=0.05):
            told = self._device.report()["models"].get(MODEL, {})
            raise BenchFailed(f"{told.get('state')}: {told.get('reason')}")
        return self._noted.active[sha256]

    async def window(self, *, after_ns: int, until_ns: int) -> dict[str, Any]:
        """Of what was seen between two moments: how many here, and how late those of others came, in ms."""
        noted = self._noted
        decided = [ms for at_ns, ms in noted.decisions if after_ns <= at_ns < until_ns]
        late = [ms for due_ns, ms in noted.late if after_ns <= due_ns < until_ns]
        said = sum(after_ns <= due_ns < until_ns for due_ns in noted.said)
        return {"said": said, "late_ms": late, "decided_ms": decided}

    async def counted(self) -> dict[str, Any]:
        """Bytes that all links have carried from here, inferences that came to nothing, and processor time."""
        peers = self._device.node.statistics().mesh.peers
        worker = self._device.report()["worker"]
        return {
            "bytes_out": sum(peer.bytes_out for peer in peers),
            "inferences_failed": worker["failed"],
            "inferences_superseded": worker["superseded"] + worker["late"] + worker["stale"],
            "cpu_s": cpu_s(family({os.getpid()})[os.getpid()]) or 0.0,
        }

    async def close(self) -> None:
        """Stop."""
        await self._device.stop()


class Noted:
    """What a device tells, kept; an `agent.observer.Observer`."""

    def __init__(self) -> None:
        self.said: list[int] = []
        """When the obstacles that were published were due to be seen."""
        self.late: list[tuple[int, float]] = []
        """The same of others' obstacles, and how much later they were in the world here, in ms."""
        self.decisions: list[tuple[int, float]] = []
        """When an inference was done, and how long after its capture, in ms."""
        self.active: dict[str, int] = {}
        """When each content came into use."""

    def obstacle_published(self, key: str, published_ns: int) -> None:
        """Note when it was due."""
        del published_ns  # the sensor may have been held up before
        due_ns = _due_ns(key)
        if due_ns is not None:
            self.said.append(due_ns)

    def obstacle_applied(self, origin: str, key: str, applied_ns: int, rebuild: bool) -> None:  # noqa: FBT001 - the observer's shape
        """Note how late it is."""
        del origin
        due_ns = _due_ns(key)
        if due_ns is not None and not rebuild:
            self.late.append((due_ns, (applied_ns - due_ns) / 1e6))

    def decided(self, latency_ns: int) -> None:
        """Note an inference."""
        self.decisions.append((time.monotonic_ns(), latency_ns / 1e6))

    def forecast_judged(self, error: float, persistence_error: float, values: int) -> None:
        """Not looked at."""

    def model_active(self, name: str, version: str, sha256: str) -> None:
        """Note when."""
        del name, version
        self.active.setdefault(sha256, time.monotonic_ns())

    def link_changed(self, peer: str, up: bool, at_ns: int) -> None:  # noqa: FBT001 - the observer's shape
        """Not looked at."""


def _due_ns(key: str) -> int | None:
    """When an obstacle was due to be seen, by its key; None: that it is gone is news of the next one's moment."""
    _, obstacle, _, state = key.split("/")
    return int(obstacle.removeprefix(_SEEN)) if state == _PRESENT else None


class _Sensor:
    """One new obstacle with each observation; the one before is gone."""

    ttl_ms = 60_000

    def __init__(self, device: str, rate: float) -> None:
        self._every_ns = round(1e9 / rate)
        self._offset_ns = crc32(device.encode()) % 1_000 * self._every_ns // 1_000

    async def observations(self) -> AsyncIterator[Observation]:
        """One at each due moment, late rather than never."""
        due_ns = time.monotonic_ns() + self._offset_ns
        tick_s = 0
        while True:
            await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            reading = Reading(float(tick_s), 1, (1, 2, 3, 4), (2, 3, 4, 5), (5.0,) * 4, 1)
            sighting = Sighting(f"{_SEEN}{due_ns}", "vehicle", "north", 10.0)
            yield Observation(due_ns, reading, (sighting,))
            due_ns, tick_s = due_ns + self._every_ns, tick_s + 1


def sensor(device: str, options: Mapping[str, Any]) -> _Sensor:
    """What `[sensor] factory` names."""
    return _Sensor(device, options["rate"])


class _Features:
    """A grey picture."""

    horizon_s = 1.0

    def note(self, observation: Observation, world: Snapshot) -> None:
        """What is seen does not matter here."""

    def fill(self, into: FloatArray) -> None:
        """The picture."""
        into[...] = GREY

    def state_age_ns(self) -> int:
        """Nothing of others goes in."""
        return 0


def features(device: str, options: Mapping[str, Any]) -> _Features:
    """What `[model] features` names."""
    del device, options
    return _Features()
