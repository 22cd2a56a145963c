"""Roles of `placement`: a junction that decides for itself, one that asks a centre, and the centre.

All of them see the traffic trace that ships and run the forecaster that ships. A junction that decides for itself is a
whole device (`agent.device.Device`), worker process included. The centre knows every junction's readings, fills the
same features and runs the same model in its own process, which is in its favour.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import aiomqtt
import numpy as np

from agent.config import BrokerConfig, Config, ModelConfig, SensorConfig
from agent.device import Device
from agent.forecast import Judge, make
from agent.infer.features import INPUT_SHAPE
from agent.infer.kinds import Kind
from agent.infer.tflite import find_runtime
from agent.messages import Inference, Reading, decode, encode
from agent.models.manifest import encode_manifest, publishable
from agent.models.shipped import ModelFiles
from agent.sensors import trace
from agent.sensors.sensor import SENSOR_NAME, Observation
from agent.world import World
from bench.role import Part
from broker import topic_names, topics
from broker.identity import DAY_MS
from broker.link import Neighbour
from broker.model_envelope import write_envelope
from broker.node import Delivered

if TYPE_CHECKING:
    from agent.infer.backend import FloatArray

__all__ = ["MODEL", "SITE", "Asking", "Centre", "Deciding", "Figures"]

SITE: Final = "city"
MODEL: Final = "forecaster"
VERSION: Final = "1"
PENDING_MAX: Final = 1_024
"""Observations whose decision has not come back: a minute's worth at the speed of this experiment."""


class Figures:
    """Notes decisions and how good the forecasts were; an `agent.observer.Observer`."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self.error = self.persistence_error = 0.0
        self.values = 0

    def clear(self) -> None:
        """Begin anew."""
        self.latencies_ms = []
        self.error = self.persistence_error = 0.0
        self.values = 0

    def told(self) -> dict[str, Any]:
        """As an answer."""
        return {
            "latencies_ms": self.latencies_ms,
            "error": self.error,
            "persistence_error": self.persistence_error,
            "values": self.values,
        }

    def decided(self, latency_ns: int) -> None:
        """An inference is done."""
        self.latencies_ms.append(latency_ns / 1e6)

    def forecast_judged(self, error: float, persistence_error: float, values: int) -> None:
        """A forecast's moment has come."""
        self.error += error
        self.persistence_error += persistence_error
        self.values += values

    def obstacle_published(self, key: str, published_ns: int) -> None:
        """Not looked at."""

    def obstacle_applied(self, origin: str, key: str, applied_ns: int, rebuild: bool) -> None:  # noqa: FBT001 - the observer's shape
        """Not looked at."""

    def model_active(self, name: str, version: str, sha256: str) -> None:
        """Not looked at."""

    def link_changed(self, peer: str, up: bool, at_ns: int) -> None:  # noqa: FBT001 - the observer's shape
        """Not looked at."""


class Deciding(Part):
    """A junction that decides for itself."""

    async def open(self, *, junction: str, state: str, speed: float, started_ms: int) -> int:
        """Start the device; returns its broker's port."""
        self._figures = Figures()
        self._device = Device(
            Config(
                device=junction,
                site=SITE,
                state=state,
                broker=BrokerConfig(port=0),
                sensor=SensorConfig(options={"speed": speed, "started_ms": started_ms}),
                model=ModelConfig(name=MODEL, unsigned=True),
            ),
            self._figures,
        )
        await self._device.start()
        await self._device.publish_model(_unsigned(VERSION))
        return self._device.node.port

    async def dial(self, *, neighbours: list[list[Any]]) -> None:
        """Dial these (name, port)."""
        for name, port in neighbours:
            self._device.node.dial(Neighbour(name, "127.0.0.1", port))

    async def clear(self) -> None:
        """Begin to note anew."""
        self._figures.clear()

    async def figures(self) -> dict[str, Any]:
        """What was noted."""
        return self._figures.told()

    async def close(self) -> None:
        """Stop."""
        await self._device.stop()


def _unsigned(version: str) -> bytes:
    """What makes a version current on devices that have no identities."""
    now_ms = time.time_ns() // 1_000_000
    manifest = publishable(
        ModelFiles().package(MODEL, version).draft,
        site=SITE,
        counter=1,
        made_ms=now_ms,
        expires_ms=now_ms + DAY_MS,
    )
    return write_envelope(encode_manifest(manifest))


class Asking(Part):
    """A junction that sends its readings to a centre and acts on what comes back."""

    async def open(self, *, junction: str, speed: float, started_ms: int, port: int) -> None:
        """Start."""
        self._figures = Figures()
        self._judge = Judge(make(junction, {}).horizon_s)
        self._junction = junction
        self._sensor = trace.make(junction, {"speed": speed, "started_ms": started_ms})
        self._captured: deque[Observation] = deque(maxlen=PENDING_MAX)
        self._task = asyncio.create_task(self._run(port))

    async def clear(self) -> None:
        """Begin to note anew."""
        self._figures.clear()

    async def figures(self) -> dict[str, Any]:
        """What was noted."""
        return self._figures.told()

    async def close(self) -> None:
        """Stop."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, port: int) -> None:
        async with aiomqtt.Client("127.0.0.1", port, identifier=self._junction) as client:
            answers = topic_names.inference_topic(site=SITE, device=self._junction, name=MODEL)
            await client.subscribe(answers, qos=0)
            await asyncio.gather(self._send(client), self._act(client))

    async def _send(self, client: aiomqtt.Client) -> None:
        topic = topic_names.sensor_topic(site=SITE, device=self._junction, name=SENSOR_NAME)
        async for observation in self._sensor.observations():
            reading = observation.reading
            judged = self._judge.came(reading.tick_s, reading.standing)
            if judged is not None:
                self._figures.forecast_judged(*judged)
            self._captured.append(observation)
            await client.publish(topic, encode(reading), qos=0)

    async def _act(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            decision = decode("inference", message.payload)
            assert isinstance(decision, Inference)
            for observation in self._captured:
                if observation.reading.tick_s == decision.tick_s:
                    self._figures.decided(time.monotonic_ns() - observation.captured_ns)
                    standing = observation.reading.standing
                    self._judge.forecast(decision.tick_s, standing, decision.forecast)


class Centre(Part):
    """Decides for all junctions."""

    async def open(self, *, junctions: list[str], port: int) -> None:
        """Start."""
        package = ModelFiles().package(MODEL, VERSION)
        self._version = package.draft.version
        self._backend = find_runtime().load(package.read(Kind.TFLITE), 1)
        self._features = {junction: make(junction, {}) for junction in junctions}
        self._world = World(SITE, "centre")
        self._input: FloatArray = np.zeros(INPUT_SHAPE, dtype=np.float32)
        self._clock = 0
        ready = asyncio.Event()
        self._task = asyncio.create_task(self._run(port, ready))
        await ready.wait()

    async def close(self) -> None:
        """Stop."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, port: int, ready: asyncio.Event) -> None:
        async with aiomqtt.Client("127.0.0.1", port, identifier="centre") as client:
            await client.subscribe(f"flock/v1/{SITE}/sensor/+/+", qos=0)
            ready.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                answer = self._decide(str(message.topic), message.payload)
                if answer is not None:
                    await client.publish(*answer, qos=0)

    def _decide(self, topic: str, payload: bytes) -> tuple[str, bytes] | None:
        now_ns = time.monotonic_ns()
        self._clock += 1
        junction = topics.parse(topic)["device"]
        message = Delivered(
            junction, 1, self._clock, 0, topic, payload, retained=False, rebuild=False
        )
        self._world.apply(message, now_ns)
        reading = decode("sensor", payload)
        features = self._features.get(junction)
        if features is None:
            return None
        assert isinstance(reading, Reading)
        features.note(Observation(now_ns, reading, ()), self._world.snapshot())
        features.fill(self._input)
        forecast = self._backend.invoke(self._input).reshape(-1)
        decision = Inference(
            name=MODEL,
            version=self._version,
            tick_s=reading.tick_s,
            horizon_s=features.horizon_s,
            forecast=tuple(float(value) for value in forecast),
            latency_ms=(time.monotonic_ns() - now_ns) / 1e6,
            state_age_ms=0.0,
            at_ms=time.time_ns() // 1_000_000,
        )
        return topic_names.inference_topic(site=SITE, device=junction, name=MODEL), encode(decision)
