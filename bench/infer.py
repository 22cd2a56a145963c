"""`infer`: what deciding costs beside the model itself.

What a worker process adds to a call, for a model of nothing and for one of 4 MB; from capture to decision while a
version is swapped, and with and without traffic on the device, in alternating windows; what the world and the features
cost when it is large; and whether a device goes on with its model whatever else it is offered (`models_bad.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.forecast import make
from agent.infer.client import InferenceClient
from agent.infer.features import INPUT_SHAPE
from agent.infer.tflite import PROBE_MODEL
from agent.messages import Heartbeat, Reading, encode
from agent.sensors.sensor import SENSOR_NAME, Observation
from agent.world import World
from bench.decider import JUNCTION
from bench.figures import median, percentile, ratio
from bench.models_bad import offer_all
from bench.networks import convolutions
from bench.result import Result
from bench.stage import Stage
from bench.swaps import swaps
from bench.traffic import OBSERVER, SITE, updates
from broker.mesh.clock import LOGICAL_BITS
from broker.node import Delivered
from broker.topic_names import heartbeat_topic, sensor_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.stage import Role

__all__ = ["run"]

DEVICES: Final = 100
OBSTACLES: Final = 1_000
TRAFFIC_PER_S: Final = 5_000
CAPTURES_PER_S: Final = 50
_BEAT: Final = Heartbeat(at_ms=1, incarnation=1, uptime_s=1.0, links=1, sequence=1)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much."""

    calls: int = 3_000
    windows: int = 5
    seconds: float = 6.0
    rounds: int = 1_000
    bad_models: int = 1_000


QUICK: Final = Plan(calls=50, windows=1, seconds=1.5, rounds=20, bad_models=25)


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Measure; `only`: times, bad models."""
    plan = QUICK if quick else Plan()
    result = Result("infer")
    if not only or "times" in only:
        await _times(plan, result)
    if not only or "bad models" in only:
        async with Stage() as stage:
            await offer_all(stage, plan.bad_models, result)
    return result


async def _times(plan: Plan, result: Result) -> None:
    overheads = [
        await _overhead(result, name, model, calls)
        for name, model, calls in (
            ("tiny", PROBE_MODEL, plan.calls),
            ("convolutions, 4 MB", convolutions(1), plan.calls // 5),
        )
    ]
    result.ratios["overhead_p50_us"] = max(p50 for p50, _ in overheads)
    result.ratios["overhead_p99_us"] = max(p99 for _, p99 in overheads)
    await swaps(result, plan.windows, plan.seconds / 3)
    await _decisions(result, plan)
    _world(result, plan)


async def _overhead(result: Result, name: str, model: bytes, calls: int) -> tuple[float, float]:
    """The round trip less the worker's own time: p50 and p99 in microseconds."""
    async with InferenceClient() as client:
        info = await client.load(model, hashlib.sha256(model).hexdigest())
        features = np.zeros(info.input.shape, np.float32)

        def fill(into: np.ndarray[Any, Any]) -> None:
            into[...] = features

        overheads, invokes = [], []
        for _ in range(calls):
            began_ns = time.perf_counter_ns()
            _, inference = await client.infer_filled(fill)
            taken_ns = time.perf_counter_ns() - began_ns
            overheads.append((taken_ns - inference.invoke_ns) / 1e3)
            invokes.append(inference.invoke_ns / 1e3)
    p50, p99 = percentile(overheads, 50), percentile(overheads, 99)
    result.add(
        name,
        overhead_p50_us=p50,
        overhead_p99_us=p99,
        invoke_p50_us=percentile(invokes, 50),
        input_kb=info.input.float_bytes / 1e3,
    )
    return p50, p99


async def _decisions(result: Result, plan: Plan) -> None:
    """From capture to decision, quiet and beside TRAFFIC_PER_S messages a second from a neighbour."""
    async with Stage() as stage:
        decider = await stage.role(
            "decider",
            "bench.decider:Decider",
            device="b",
            state=str(stage.directory("b")),
            neighbours=[],
        )
        near = await stage.role(
            "near",
            "bench.systems.flockmq:Near",
            device=OBSERVER,
            state=str(stage.directory("near")),
            neighbours=[["b", decider.opened]],
            stamps=str(stage.path / "stamps"),
        )
        near.give_way()
        for role in (decider, near):
            await role.ask("linked", links=1)
        quiet: list[dict[str, Any]] = []
        busy: list[dict[str, Any]] = []
        await _window(decider, plan.seconds)  # the first ones are cold
        for number in range(plan.windows):
            quiet.append(await _window(decider, plan.seconds))
            count = round(TRAFFIC_PER_S * plan.seconds)
            await near.ask("prepare", first=number * count, count=count)
            traffic = asyncio.create_task(near.ask("publish", rate=TRAFFIC_PER_S))
            busy.append(await _window(decider, plan.seconds, beside=True))
            await traffic
    p99 = {}
    for name, windows in (("quiet", quiet), (f"{TRAFFIC_PER_S:,} messages a second", busy)):
        p99[name] = median([percentile(window["ms"], 99) for window in windows])
        result.add(
            name,
            decision_p50_ms=median([percentile(window["ms"], 50) for window in windows]),
            decision_p99_ms=p99[name],
            decisions=sum(len(window["ms"]) for window in windows),
            messages_per_s=median([window["messages_per_s"] for window in windows]),
        )
    calm, beside = p99.values()
    result.ratios["decision_p99_over_quiet"] = ratio(beside, calm)
    result.ratios["decision_p99_difference_ms"] = beside - calm


async def _window(decider: Role, seconds: float, *, beside: bool = False) -> dict[str, Any]:
    answer: dict[str, Any] = await decider.ask(
        "decide", rate=CAPTURES_PER_S, seconds=seconds, beside=beside
    )
    return answer


def _world(result: Result, plan: Plan) -> None:
    """A snapshot of a large world after one more message, and the features from it."""
    world, clock = World(SITE, "near"), time.time_ns() // 1_000_000 << LOGICAL_BITS
    devices = [JUNCTION, *(f"dev-{number}" for number in range(DEVICES - 1))]
    reading = Reading(1.0, 1, (1, 2, 3, 4), (2, 3, 4, 5), (5.0, 6.0, 7.0, 8.0), 1)
    for device in devices:
        beat = heartbeat_topic(site=SITE, device=device)
        seen = sensor_topic(site=SITE, device=device, name=SENSOR_NAME)
        for topic, message in ((beat, _BEAT), (seen, reading)):
            world.apply(_delivered(device, clock, topic, encode(message)), 1)
    sightings = updates(0, OBSTACLES + plan.rounds + 1)
    for topic, payload in sightings[:OBSTACLES]:
        world.apply(_delivered(OBSERVER, clock, topic, payload), 1)
    features, into = make(JUNCTION, {}), np.zeros(INPUT_SHAPE, np.float32)
    snapshots, fills = [], []
    for number, (topic, payload) in enumerate(sightings[OBSTACLES:]):
        world.apply(_delivered(OBSERVER, clock + number, topic, payload), 1)
        snapshots.append(_timed_us(world.snapshot))
        observation = Observation(1, reading, ())
        snapshot = world.snapshot()
        fills.append(
            _timed_us(partial(features.note, observation, snapshot))
            + _timed_us(partial(features.fill, into))
        )
    result.add(
        f"world of {OBSTACLES:,} obstacles and {DEVICES} devices",
        snapshot_p50_us=percentile(snapshots, 50),
        snapshot_p99_us=percentile(snapshots, 99),
        features_p50_us=percentile(fills, 50),
        features_p99_us=percentile(fills, 99),
    )
    result.ratios["snapshot_us"] = percentile(snapshots, 50)
    result.ratios["features_us"] = percentile(fills, 50)


def _timed_us(work: Callable[[], Any]) -> float:
    began_ns = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - began_ns) / 1e3


def _delivered(origin: str, clock: int, topic: str, payload: bytes) -> Delivered:
    return Delivered(origin, 1, clock, 0, topic, payload, retained=False, rebuild=False)
