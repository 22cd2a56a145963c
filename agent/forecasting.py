"""A device's model at work: readings in, forecasts out, and how good they were.

Wires features, inference loop, worker and model follower together. If the runtime is missing or the worker cannot be
started, this device makes no forecasts, says why and tries again later. Where loop or follower end by a defect, so does
the other, and `flockmq status` says so until the device is restarted. Everything else goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.factories import made_by
from agent.forecast import Features, Judge
from agent.infer.backend import InferenceError
from agent.infer.edgetpu import LIBRARY, EdgeTpu
from agent.infer.limits import Limits, LoopLimits
from agent.infer.loop import Decision, Filled, InferenceLoop
from agent.infer.records import InputRefused
from agent.infer.standby import StandbyClient
from agent.limits import REASON_CHARACTERS_MAX
from agent.messages import Inference, ModelStatus
from agent.models.follower import ModelFollower
from agent.models.handover import Handover
from agent.models.library import Library
from agent.models.rollout import RUNNING
from agent.models.shipped import ModelFiles
from agent.models.steps import to_its_end
from agent.models.surroundings import Fleet, Surroundings
from agent.models.transfers import Transfers
from broker import topic_names
from broker.calls import Calls

if TYPE_CHECKING:
    from agent.config import ModelConfig
    from agent.infer.backend import FloatArray
    from agent.models.acceptance import Acceptance
    from agent.models.store import ContentStore
    from agent.observer import Observer
    from agent.publisher import Publisher
    from agent.sensors.sensor import Observation
    from agent.world import World

__all__ = ["Forecasting"]

logger = logging.getLogger(__name__)

START_AGAIN_S: Final = 30.0
"""A worker that does not start may lack memory or a runtime; somebody may mend it while the device runs."""
HOLDING: Final = RUNNING | {"waiting", "held"}
"""States of a version whose bytes are there."""
OUTPUTS_MAX: Final = 16
"""Values of a model's output that are published, as the topic contract has it."""


class Forecasting:
    """The model of one device.

    Args:
        device: The device's id.
        config: `[model]` of device.toml.
        world: What features look at.
        observer: Is told of decisions.

    Raises:
        AgentError: The features or the models that the configuration names are not there.
    """

    def __init__(
        self, device: str, config: ModelConfig, world: World, observer: Observer | None
    ) -> None:
        self._device = device
        self._name = config.name
        self._world = world
        self._observer = observer
        self._models = ModelFiles(config.directory)
        self._features: Features = made_by(config.features, device, config.options, Features)
        self._client = StandbyClient(
            Limits(),
            num_threads=config.threads,
            edge_tpu=_edge_tpu(config),
            always=config.edge_tpu != "auto",
        )
        self._limits = LoopLimits(
            deadline_ms=config.deadline_ms, state_age_max_ms=config.state_age_max_ms
        )
        self._loop: InferenceLoop[Observation] = InferenceLoop(
            self._client, self._fill, self._decided, limits=self._limits
        )
        self._judge = Judge(self._features.horizon_s)
        self._used: Observation | None = None
        self._forecast: tuple[float, ...] = ()
        self._publisher: Publisher | None = None
        self._follower: ModelFollower | None = None
        self._library: Library | None = None
        self._handover: Handover | None = None
        self._calls: Calls | None = None
        self._ended = ""
        """By which defect; empty: by none."""

    def attach(self, publisher: Publisher, acceptance: Acceptance, store: ContentStore) -> None:
        """Publish through this from now on, take up what is accepted by that, keep it there; before `run`."""
        self._publisher = publisher
        node = publisher.node
        calls = self._calls = Calls(node, publisher.site)
        transfers = Transfers(node, calls, store, publisher.site, self._holders)
        self._library = Library(self._models, store, transfers)
        self._handover = Handover(calls, self._device, self._library, acceptance)
        around = Surroundings(
            self._device, self._tell_model, publisher.now_ms, self._fleet, self._fits
        )
        self._follower = ModelFollower(self._client, self._library, acceptance, around)

    async def run(self) -> None:
        """Follow the fleet's model and decide on what is observed, until this is cancelled, or by a defect."""
        assert self._follower is not None, "attach comes first"
        while True:
            try:
                await self._client.start()
                break
            except (InferenceError, OSError) as error:
                logger.error("%s: no inference for now: %s", self._device, error)
                await asyncio.sleep(START_AGAIN_S)
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._follower.run())
                parts.create_task(self._loop.run())
        except* Exception as defects:
            first = defects.exceptions[0]
            self._ended = f"{type(first).__name__}: {first}"[:REASON_CHARACTERS_MAX]
            logger.error("%s: inference has ended by a defect", self._device, exc_info=defects)
            self._follower.ended(f"inference has ended by a defect: {self._ended}")
        await to_its_end(self._client.stop())

    async def stop(self) -> None:
        """End the worker; `run` must have been cancelled before."""
        if self._calls is not None:
            await self._calls.close()  # first, since a call could begin something
        if self._handover is not None:
            await self._handover.close()
        if self._library is not None:
            await self._library.close()
        await self._client.stop()

    def hear(self, payload: bytes) -> None:
        """This stands on the model's topic."""
        if self._follower is not None:
            self._follower.want(payload)

    def observe(self, observation: Observation) -> None:
        """Take in an observation: it feeds the features, judges an old forecast, and asks for a new one."""
        try:
            self._features.note(observation, self._world.snapshot())
        except Exception:
            # Somebody's features, on anybody's readings: they may cost a forecast, never the sensor.
            logger.exception("%s: the features failed", self._device)
            return
        reading = observation.reading
        judged = self._judge.came(reading.tick_s, reading.standing)
        if judged is not None and self._observer is not None:
            self._observer.forecast_judged(*judged)
        if self._follower is not None and self._follower.active is not None:
            self._loop.submit_nowait(observation)

    @property
    def worker_pid(self) -> int | None:
        """The worker process, while there is one."""
        return self._client.statistics().worker_pid

    def report(self) -> dict[str, Any]:
        """Model, runtime and worker at this moment."""
        client, loop = self._client.statistics(), self._loop.statistics()
        in_use = self._client.in_use
        models: dict[str, Any] = {}
        follower = self._follower
        if follower is not None and (follower.status is not None or follower.refused):
            status, active = follower.status, None if self._ended else follower.active
            models[self._name] = {
                "version": active.manifest.version if active else None,
                "sha256": active.variant.content.sha256 if active else None,
                "state": status.state if status else "refused",
                "reason": status.reason if status else follower.last_refused,
                "refused": dict(follower.refused),
                "last_refused": follower.last_refused,
            }
        return {
            "follows": self._name,
            "models": models,
            "content": self._library.report() if self._library is not None else {},
            "forecast": list(self._forecast) or None,
            "runtime": in_use.runtime if in_use is not None else client.runtime,
            "edge_tpu": self._client.reason,
            "worker": {
                "pid": client.worker_pid,
                "inferences": client.inferences,
                "superseded": loop.superseded,
                "late": loop.late,
                "deadline_ms": self._limits.deadline_ms,
                "stale": loop.stale,
                "state_age_max_ms": self._limits.state_age_max_ms,
                "failed": loop.failed,
                "last_failure": loop.last_failure,
                "workers_lost": client.workers_lost,
                "ended": self._ended,
            },
        }

    def _holders(self, sha256: str) -> list[str]:
        """Devices that say that they run this content, or are about to."""
        statuses = self._world.snapshot().model_status.items()
        return [
            device
            for (device, _), status in statuses
            if status.sha256 == sha256 and status.state in HOLDING
        ]

    def _fleet(self) -> Fleet:
        """What the other devices say of this model."""
        snapshot = self._world.snapshot()
        statuses = {
            device: status
            for (device, name), status in snapshot.model_status.items()
            if name == self._name and device != self._device
        }
        return Fleet(frozenset(snapshot.alive(time.monotonic_ns())), statuses)

    def _fits(self, shape: tuple[int, ...]) -> str:
        """Why the features do not fill an input of that shape; empty: they do."""
        try:
            self._features.fill(np.zeros(shape, np.float32))
        except Exception as error:  # noqa: BLE001 - somebody's features
            return f"{type(error).__name__}: {error}"
        return ""

    def _fill(self, observation: Observation, into: FloatArray) -> Filled:
        try:
            self._features.fill(into)
        except Exception as error:
            raise InputRefused(f"{type(error).__name__}: {error}") from error
        self._used = observation
        return Filled(observation.captured_ns, self._features.state_age_ns())

    def _decided(self, decision: Decision) -> None:
        used = self._used
        assert used is not None, "a decision follows a fill"
        assert self._publisher is not None
        self._forecast = tuple(
            round(float(value), 3) for value in decision.output.ravel()[:OUTPUTS_MAX]
        )
        self._judge.forecast(used.reading.tick_s, used.reading.standing, self._forecast)
        if self._observer is not None:
            self._observer.decided(decision.latency_ns)
        assert self._follower is not None, "it loaded the model"
        version = self._follower.version_of(decision.model.sha256)
        if version is None:
            return
        message = Inference(
            name=self._name,
            version=version,
            tick_s=used.reading.tick_s,
            horizon_s=self._features.horizon_s,
            forecast=self._forecast,
            latency_ms=decision.latency_ns / 1e6,
            state_age_ms=decision.state_age_ns / 1e6,
            at_ms=self._publisher.now_ms(),
        )
        topic = topic_names.inference_topic(
            site=self._publisher.site, device=self._device, name=self._name
        )
        self._publisher.say(topic, message)

    def _tell_model(self, status: ModelStatus) -> None:
        assert self._publisher is not None
        topic = topic_names.model_status_topic(
            site=self._publisher.site, device=self._device, name=status.name
        )
        self._publisher.say(topic, status)
        if status.state in RUNNING and self._observer is not None:
            self._observer.model_active(status.name, status.version, status.sha256)


def _edge_tpu(config: ModelConfig) -> EdgeTpu | None:
    if config.edge_tpu == "off":
        return None
    device = "" if config.edge_tpu == "auto" else config.edge_tpu
    return EdgeTpu(config.edge_tpu_library or LIBRARY, device)
