"""`chain`: three in a row, obstacle updates published one by one at one end, reduced into a world at the other.

Throughput flat out, then latency from publish to reduced at 200 and 2,000 a second. Windows of the systems alternate,
forth and back, so what else this machine does meets all of them; figures are medians over the windows. A window in
which anything is missing, twice there or out of order is a problem that fails the run.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.figures import median, percentile, ratio
from bench.result import Result
from bench.stage import BenchFailed, Stage
from bench.stamps import Stamps
from bench.systems.c_clients import MosquittoC
from bench.systems.flockmq import Flockmq, FlockmqClients
from bench.systems.mosquitto import Mosquitto
from bench.systems.nats import Nats
from bench.systems.zenoh import Zenoh

if TYPE_CHECKING:
    from bench.systems.row import Row, System

__all__ = ["QUICK", "RATES", "Lane", "Plan", "measure", "run"]

RATES: Final = (200, 2_000)
SWEEP: Final = (500, 1_000, 5_000, 10_000, 20_000)
"""Rates of the picture, one window each, for the systems that can carry them."""
SPARE: Final = 0.7
"""A system is asked for at most this much of its throughput; beyond it a queue is measured, not a latency."""
_WARM_UP: Final = 4_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure."""

    windows: int = 5
    throughput_s: float = 2.0
    latency_s: float = 3.0
    updates_max: int = 600_000
    sweep_s: float = 1.5
    """Of each rate of the picture; 0: none."""


QUICK: Final = Plan(windows=1, throughput_s=0.1, latency_s=0.3, updates_max=2_000, sweep_s=0)


@dataclass(slots=True)
class Lane:
    """One system under measurement."""

    system: System
    stage: Stage
    row: Row
    stamps: Stamps
    first: int = 0
    """Updates published so far."""
    throughput: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    """Processor time of the whole row per update, brokers included."""
    p50_ms: dict[int, list[float]] = field(default_factory=dict)
    p99_ms: dict[int, list[float]] = field(default_factory=dict)
    problem: str | None = None

    async def window(self, count: int, rate: int | None) -> float:
        """One window; returns updates a second, and notes latencies or processor time."""
        near, far = self.row.near, self.row.far
        await near.ask("prepare", first=self.first, count=count)
        await far.ask("begin", stamping=rate is not None)
        cpu_s = self.stage.cpu_s()
        began = await near.ask("publish", rate=rate)
        await far.ask("wait_for", count=count)
        cpu_s = self.stage.cpu_s() - cpu_s
        judged = await far.ask("judge", first=self.first, count=count)
        self.first += count
        if judged["problem"] is not None:
            self.problem = judged["problem"]
        if rate is None:
            self.cpu_us.append(cpu_s * 1e6 / count)
        else:
            latencies = self.stamps.latencies_ms(count)
            self.p50_ms.setdefault(rate, []).append(percentile(latencies, 50))
            self.p99_ms.setdefault(rate, []).append(percentile(latencies, 99))
        taken_s: float = (judged["last_ns"] - began["started_ns"]) / 1e9
        return count / taken_s


def systems() -> list[System]:
    """Who takes part."""
    return [
        Flockmq(),
        Mosquitto("mosquitto", "PahoFar"),
        Zenoh(),
        Nats(),
        FlockmqClients(),
        Mosquitto("mosquitto, aiomqtt", "AiomqttFar"),
        MosquittoC(),
    ]


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Measure."""
    result = Result("chain")
    chosen = [system for system in systems() if not only or system.name in only]
    await measure(chosen, QUICK if quick else Plan(), result)
    _compare(result)
    return result


async def measure(chosen: list[System], plan: Plan, result: Result) -> dict[str, Lane]:
    """Start these systems, measure them in alternating windows, and put into `result` what was found.

    Returns the windows of each, by its name.
    """
    lanes: list[Lane] = []
    for system in chosen:
        missing = system.missing()
        if missing is not None:
            result.add(system.name, missing=missing)
    present = [system for system in chosen if system.missing() is None]
    try:
        started = await asyncio.gather(
            *(_start(system, lanes) for system in present), return_exceptions=True
        )
        for system, failed in zip(present, started, strict=True):
            if isinstance(failed, BenchFailed):
                result.problems.append(f"{system.name}: {failed}")
            elif failed is not None:
                raise failed
        lanes.sort(key=lambda lane: present.index(lane.system))
        await _measure(lanes, plan)
    finally:
        await asyncio.gather(*(lane.stage.__aexit__(None, None, None) for lane in lanes))
    for lane in lanes:
        _report(lane, result)
    return {lane.system.name: lane for lane in lanes}


async def _start(system: System, lanes: list[Lane]) -> None:
    """Start a system and add it to the lanes, from where it is cleared up; if it cannot start, clear up here."""
    stage = Stage()
    try:
        path = stage.path / "stamps"
        row = await system.start(stage, path)
    except BaseException:
        await stage.__aexit__(None, None, None)
        raise
    lanes.append(Lane(system, stage, row, Stamps(path)))


async def _measure(lanes: list[Lane], plan: Plan) -> None:
    counts: dict[str, int] = {}
    for lane in lanes:
        speed = await lane.window(min(_WARM_UP, plan.updates_max), None)
        counts[lane.system.name] = min(int(speed * plan.throughput_s) + 1, plan.updates_max)
    for window in range(plan.windows):
        for lane in lanes[:: -1 if window % 2 else 1]:
            speed = await lane.window(counts[lane.system.name], None)
            lane.throughput.append(speed)
    for rate in RATES:
        for window in range(plan.windows):
            for lane in lanes[:: -1 if window % 2 else 1]:
                await lane.window(max(1, int(rate * plan.latency_s)), rate)
    for rate in SWEEP if plan.sweep_s else ():
        for lane in lanes:
            if rate <= SPARE * median(lane.throughput):
                await lane.window(int(rate * plan.sweep_s), rate)


def _report(lane: Lane, result: Result) -> None:
    result.add(
        lane.system.name,
        updates_per_s=median(lane.throughput),
        cpu_us_per_update=median(lane.cpu_us[1:]),
    )
    for rate in (*RATES, *sorted(lane.p50_ms.keys() - set(RATES))):
        result.add(
            lane.system.name,
            **{
                f"p50_ms_{rate}": median(lane.p50_ms[rate]),
                f"p99_ms_{rate}": median(lane.p99_ms[rate]),
            },
        )
    if lane.problem is not None:
        result.problems.append(f"{lane.system.name}: {lane.problem}")


def _compare(result: Result) -> None:
    ours = result.systems.get("flockmq", {})
    for peer in ("mosquitto", "zenoh"):
        theirs = result.systems.get(peer, {})
        result.ratios[f"updates_per_s_vs_{peer}"] = ratio(
            _number(ours, "updates_per_s"), _number(theirs, "updates_per_s")
        )
    theirs = result.systems.get("mosquitto", {})
    for rate in RATES:
        for name in ("p50", "p99"):
            mine, other = (_number(row, f"{name}_ms_{rate}") for row in (ours, theirs))
            result.ratios[f"{name}_vs_mosquitto_{rate}"] = ratio(mine, other)
            if mine is not None and other is not None:
                result.ratios[f"{name}_vs_mosquitto_{rate}_difference_ms"] = mine - other


def _number(row: dict[str, float | int | str | bool | None], figure: str) -> float | None:
    value = row.get(figure)
    return float(value) if isinstance(value, int | float) else None
