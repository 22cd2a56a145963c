"""`placement`: where a forecast is made: in a centre behind a backhaul, on each device, or there with others' news.

Five junctions replay the traffic trace that ships, ten seconds of it a second, and want a forecast per reading.

- central: readings go to one Mosquitto broker behind the backhaul, a centre decides for all and answers the same way.
- on each device: a whole flockmq device, without links: the model sees its own junction only.
- on each device, synced: the same devices linked through the backhaul: each reading reaches the neighbours' features.

Latency is from capture to decision at the junction. `error_vehicles` is the forecast's mean absolute error, beside the
same of saying that nothing will change; bytes are those of the backhaul; processor time per decision stands in for
energy.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.cable import Cable
from bench.figures import percentile, ratio
from bench.result import Result
from bench.stage import Role, Stage, free_port, program

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["run"]

HUB: Final = "j-1-1"
JUNCTIONS: Final = (HUB, "j-0-1", "j-1-0", "j-1-2", "j-2-1")
MODULE: Final = "bench.junction:"
TRACE_OFFSET_S: Final = 300
"""Where the trace is taken up: its beginning is an empty city."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how fast, and how far away the centre is."""

    speed: float = 10.0
    settle_s: float = 12.0
    """A minute of history and the first forecasts' moment, in trace time."""
    seconds: float = 30.0
    delays_ms: tuple[float, ...] = (5.0, 20.0)
    """Of the backhaul, one way: a site's own network, a mobile network."""


QUICK: Final = Plan(speed=20.0, settle_s=1.5, seconds=2.0, delays_ms=(2.0,))


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Each placement at each delay."""
    plan = QUICK if quick else Plan()
    result = Result("placement")
    for delay_ms in plan.delays_ms:
        placements: dict[
            str, Callable[[Stage, Plan, float, list[Cable]], Awaitable[list[Role]]]
        ] = {
            "central": _central,
            "on device": _alone,
            "on device, synced": _synced,
        }
        for name, start in placements.items():
            if only and name not in only:
                continue
            row = f"{name}, {delay_ms:g} ms"
            if name == "central" and program("mosquitto") is None:
                result.add(row, missing="mosquitto is not installed (apt install mosquitto)")
                continue
            cables: list[Cable] = []
            async with Stage() as stage:
                try:
                    junctions = await start(stage, plan, delay_ms / 1e3, cables)
                    figures = await _watch(stage, plan, junctions, cables)
                finally:
                    await asyncio.gather(*(cable.remove() for cable in cables))
            result.add(row, **figures)
            if not figures["decisions"]:
                result.problems.append(f"{row}: no decision was made")
        _compare(result, delay_ms)
    return result


def _compare(result: Result, delay_ms: float) -> None:
    central = result.systems.get(f"central, {delay_ms:g} ms", {}).get("latency_p50_ms")
    for key, name in (("on_device", "on device"), ("synced", "on device, synced")):
        here = result.systems.get(f"{name}, {delay_ms:g} ms", {}).get("latency_p50_ms")
        if isinstance(here, float) and isinstance(central, float):
            result.ratios[f"{key}_vs_central_{delay_ms:g}ms"] = ratio(here, central)


async def _watch(
    stage: Stage, plan: Plan, junctions: list[Role], cables: list[Cable]
) -> dict[str, float | int | str | bool | None]:
    await asyncio.sleep(plan.settle_s)
    await asyncio.gather(*(one.ask("clear") for one in junctions))
    cpu_s, carried = stage.cpu_s(), sum(cable.carried_bytes for cable in cables)
    await asyncio.sleep(plan.seconds)
    told: list[dict[str, Any]] = await asyncio.gather(*(one.ask("figures") for one in junctions))
    cpu_s = stage.cpu_s() - cpu_s
    carried = sum(cable.carried_bytes for cable in cables) - carried
    latencies = [value for one in told for value in one["latencies_ms"]]
    values = sum(one["values"] for one in told)
    decisions = len(latencies)
    return {
        "decisions": decisions,
        "latency_p50_ms": percentile(latencies, 50),
        "latency_p99_ms": percentile(latencies, 99),
        "backhaul_bytes_per_decision": carried / decisions if decisions else None,
        "cpu_ms_per_decision": cpu_s * 1e3 / decisions if decisions else None,
        "error_vehicles": sum(one["error"] for one in told) / values if values else None,
        "error_of_no_change": sum(one["persistence_error"] for one in told) / values
        if values
        else None,
    }


def _started_ms(plan: Plan) -> int:
    return time.time_ns() // 1_000_000 - int(TRACE_OFFSET_S * 1e3 / plan.speed)


async def _central(stage: Stage, plan: Plan, delay_s: float, cables: list[Cable]) -> list[Role]:
    path = program("mosquitto")
    assert path is not None
    port = free_port()
    config = stage.directory("mosquitto") / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
    await stage.daemon("mosquitto", [path, "-c", str(config)], port)
    cable = Cable(port, delay_s)
    cables.append(cable)
    await cable.lay()
    await stage.role("centre", MODULE + "Centre", junctions=list(JUNCTIONS), port=port)
    started_ms = _started_ms(plan)
    return [
        await stage.role(
            junction,
            MODULE + "Asking",
            junction=junction,
            speed=plan.speed,
            started_ms=started_ms,
            port=cable.port,
        )
        for junction in JUNCTIONS
    ]


async def _alone(stage: Stage, plan: Plan, delay_s: float, cables: list[Cable]) -> list[Role]:
    del delay_s, cables  # nothing is sent
    started_ms = _started_ms(plan)
    return list(
        await asyncio.gather(
            *(
                stage.role(
                    junction,
                    MODULE + "Deciding",
                    junction=junction,
                    state=str(stage.directory(f"state-{junction}")),
                    speed=plan.speed,
                    started_ms=started_ms,
                )
                for junction in JUNCTIONS
            )
        )
    )


async def _synced(stage: Stage, plan: Plan, delay_s: float, cables: list[Cable]) -> list[Role]:
    hub, *others = devices = await _alone(stage, plan, delay_s, cables)
    for other in others:
        cable = Cable(hub.opened, delay_s)
        cables.append(cable)
        await cable.lay()
        await other.ask("dial", neighbours=[[HUB, cable.port]])
    return devices
