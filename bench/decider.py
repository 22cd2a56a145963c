"""The device that decides: a node, its world, and the shipped forecaster in its worker.

Observations come at a rate of their own, as from a camera; every decision's time from capture is kept. What neighbours
publish meanwhile is reduced into the world beside it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from agent.forecast import make
from agent.infer.client import InferenceClient
from agent.infer.kinds import Kind
from agent.infer.loop import Decision, Filled, InferenceLoop
from agent.messages import Reading
from agent.models.content import sha256_of
from agent.models.shipped import ModelFiles
from agent.sensors.sensor import Observation
from agent.world import World
from bench.role import Part
from bench.stage import BenchFailed
from bench.systems.flockmq import Holder
from bench.traffic import SITE
from bench.waiting import until

if TYPE_CHECKING:
    from agent.infer.backend import FloatArray
    from broker.node import Delivered

__all__ = ["Decider"]

JUNCTION = "j-1-1"
TRAFFIC_WITHIN_S = 30.0


class Decider(Holder, Part):
    """The far end of a link, with a model."""

    async def open(self, *, device: str, state: str, neighbours: list[list[Any]]) -> int:
        """Start node, worker and loop; returns the port."""
        port = await self.start_node(device, state, neighbours)
        self._world = World(SITE, device)
        self._reduced = 0
        self.node.subscribe(self._deliver)
        self._features = make(JUNCTION, {})
        self._client = InferenceClient()
        await self._client.start()
        await self._load()
        self._decisions_ms: list[float] = []
        self._loop: InferenceLoop[Observation] = InferenceLoop(
            self._client, self._fill, self._decided
        )
        self._running = asyncio.create_task(self._loop.run())
        self._tick_s = 0
        return port

    async def decide(self, *, rate: float, seconds: float, beside: bool) -> dict[str, Any]:
        """Capture at a rate for so long, from the first message on where there is traffic beside.

        Returns each decision's milliseconds, and messages reduced a second.

        Raises:
            BenchFailed: No message comes.
        """
        reduced = self._reduced
        # Who sends them has what others leave of the processor.
        if beside and not await until(lambda: self._reduced > reduced, within_s=TRAFFIC_WITHIN_S):
            raise BenchFailed("there is no traffic beside")
        self._decisions_ms = []
        started_s = time.monotonic()
        for number in range(round(rate * seconds)):
            wait_s = started_s + number / rate - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._capture()
        await asyncio.sleep(1 / rate)
        taken_s = time.monotonic() - started_s
        return {"ms": self._decisions_ms, "messages_per_s": (self._reduced - reduced) / taken_s}

    async def close(self) -> None:
        """Stop."""
        self._loop.stop_nowait()
        await self._running
        await self._client.stop()
        await super().close()

    async def _load(self) -> None:
        model = ModelFiles().package("forecaster", "1").read(Kind.TFLITE)
        await self._client.load(model, sha256_of(model))

    def _deliver(self, batch: list[Delivered]) -> None:
        self._world.apply_batch(batch, time.monotonic_ns())
        self._reduced += len(batch)

    def _capture(self) -> None:
        captured_ns = time.monotonic_ns()
        self._tick_s += 1
        reading = Reading(
            tick_s=self._tick_s,
            phase=self._tick_s // 20 % 4,
            standing=(1, 2, 3, 4),
            vehicles=(2, 3, 4, 5),
            speed_mps=(5.0, 6.0, 7.0, 8.0),
            at_ms=0,
        )
        observation = Observation(captured_ns, reading, ())
        self._features.note(observation, self._world.snapshot())
        self._loop.submit_nowait(observation)

    def _fill(self, observation: Observation, into: FloatArray) -> Filled:
        self._features.fill(into)
        return Filled(observation.captured_ns, self._features.state_age_ns())

    def _decided(self, decision: Decision) -> None:
        self._decisions_ms.append(decision.latency_ns / 1e6)
