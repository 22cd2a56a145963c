"""The first story of `models`: a version that one of ten devices has, and what others have to say meanwhile.

Whole devices (`models_device.py`), each with its worker, in a ring in which everybody is also linked to the one after
the next. The version is published on the first. It has swapped when the last device says so. Quiet windows of the same
length alternate with it. Each obstacle's latency is from the moment at which its sensor was due to see it until it is
in the world of another device; the bytes of the publisher are all that its links carried, chunks and everything else.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.demo.identities import identity_of, make_fleet
from bench.figures import median, percentile
from bench.models_fleet import every, link
from bench.models_versions import Operator, Version, make_versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.result import Result
    from bench.stage import Role, Stage

__all__ = ["roll_out"]

SETTLE_S: Final = 1.0
"""Between two windows, so that what one began is over in the next."""
ARRIVAL_S: Final = 10.0
"""For what was published to be acknowledged, and everywhere; what is not there by then is missing."""
LOOK_S: Final = 0.3
WITHIN_S: Final = 60.0


async def roll_out(
    stage: Stage,
    result: Result,
    network: Callable[[int], bytes],
    *,
    devices: int,
    windows: int,
    rate: float,
) -> None:
    """So many windows of each kind, of so many devices with `rate` obstacles and inferences a second each."""
    folder, fleet = stage.directory("versions"), stage.directory("fleet")
    versions = await asyncio.to_thread(make_versions, folder, network, windows + 1)
    members = await _start(stage, devices, rate, folder, fleet)
    operator = Operator(fleet)
    await _publish(members, operator, versions[0])  # everything is cold
    quiet: list[_Window] = []
    busy: list[_Window] = []
    for version in versions[1:]:
        await asyncio.sleep(SETTLE_S)
        busy.append(await _publish(members, operator, version))
        await asyncio.sleep(SETTLE_S)
        quiet.append(await _quiet(members, busy[-1].seconds))
    _judge(result, quiet, busy, versions[0].size_bytes)


def _judge(result: Result, quiet: list[_Window], busy: list[_Window], size_bytes: int) -> None:
    """Medians over the windows; ratios and differences of neighbouring ones."""
    for name, windows in (("quiet", quiet), ("a version travels", busy)):
        result.add(
            name,
            seconds=median([window.seconds for window in windows]),
            obstacles=sum(window.said for window in windows),
            obstacle_p50_ms=median([percentile(window.late_ms, 50) for window in windows]),
            obstacle_p99_ms=median([percentile(window.late_ms, 99) for window in windows]),
            decision_p99_ms=median([percentile(window.decided_ms, 99) for window in windows]),
            inferences_failed=sum(window.inferences_failed for window in windows),
            inferences_superseded=sum(window.inferences_superseded for window in windows),
            publisher_mb=median([window.publisher_bytes for window in windows]) / 1e6,
            cpu_cores=median([window.cpu_s / window.seconds for window in windows]),
        )
    pairs = [
        (percentile(calm.late_ms, 99), percentile(beside.late_ms, 99))
        for calm, beside in zip(quiet, busy, strict=True)
    ]
    result.ratios |= {
        "all_swapped_s": median([window.seconds for window in busy]),
        "publisher_copies": median([window.publisher_bytes for window in busy]) / size_bytes,
        "obstacle_p99_over_quiet": median([beside / calm for calm, beside in pairs]),
        "obstacle_p99_more_ms": median([beside - calm for calm, beside in pairs]),
    }
    if missing := sum(window.missing for window in (*quiet, *busy)):
        result.problems.append(f"{missing} obstacles did not arrive")
    if failed := sum(window.inferences_failed for window in (*quiet, *busy)):
        result.problems.append(f"{failed} inferences failed")


@dataclass(slots=True)
class _Window:
    """What one window found."""

    seconds: float
    said: int
    missing: int
    late_ms: list[float]
    """Of each obstacle at each other device, from when it was due to be seen."""
    decided_ms: list[float]
    """Of each inference, from its capture."""
    inferences_failed: int
    inferences_superseded: int
    """Readings whose turn had not come when the next one was there."""
    publisher_bytes: int
    """All that the first device's links have carried from it."""
    cpu_s: float
    """Processor time of all devices and their workers."""


async def _start(stage: Stage, devices: int, rate: float, folder: Path, fleet: Path) -> list[Role]:
    """Start all, and return when every link stands. The first has the versions."""
    names = [f"d{number}" for number in range(devices)]
    await asyncio.to_thread(make_fleet, fleet, "bench", names)
    members = [
        await stage.role(
            name,
            "bench.models_device:Modelled",
            device=name,
            state=str(stage.directory(f"{name}-state")),
            identity=str(identity_of(fleet, name)),
            models=str(folder) if name == names[0] else None,
            rate=rate,
        )
        for name in names  # one after the other: together they would wait for the processor
    ]
    edges = {frozenset((n, (n + step) % devices)) for n in range(devices) for step in (1, 2)}
    await link(members, [(min(edge), max(edge)) for edge in edges])
    return members


async def _publish(devices: list[Role], operator: Operator, version: Version) -> _Window:
    """Publish a version on the first device; the window ends when all have swapped."""
    before = await every(devices, "counted")
    manifest = operator.sign(version.draft).decode()
    began_ns: int = await devices[0].ask("publish", manifest=manifest)
    active: list[int] = await every(devices, "active", sha256=version.sha256, within_s=WITHIN_S)
    return await _seen(devices, before, began_ns, max(active))


async def _quiet(devices: list[Role], seconds: float) -> _Window:
    before = await every(devices, "counted")
    began_ns = time.monotonic_ns()
    await asyncio.sleep(seconds)
    return await _seen(devices, before, began_ns, began_ns + round(seconds * 1e9))


async def _seen(
    devices: list[Role], before: list[dict[str, Any]], began_ns: int, ended_ns: int
) -> _Window:
    after = await every(devices, "counted")
    missing, until_s = 1, time.monotonic() + ARRIVAL_S
    while missing and time.monotonic() < until_s:
        await asyncio.sleep(LOOK_S)
        found = await every(devices, "window", after_ns=began_ns, until_ns=ended_ns)
        said = sum(one["said"] for one in found)
        late_ms = [ms for one in found for ms in one["late_ms"]]
        missing = said * (len(devices) - 1) - len(late_ms)

    def grown(what: str) -> Any:
        return sum(one[what] for one in after) - sum(one[what] for one in before)

    return _Window(
        seconds=(ended_ns - began_ns) / 1e9,
        said=said,
        missing=missing,
        late_ms=late_ms,
        decided_ms=[ms for one in found for ms in one["decided_ms"]],
        inferences_failed=grown("inferences_failed"),
        inferences_superseded=grown("inferences_superseded"),
        publisher_bytes=after[0]["bytes_out"] - before[0]["bytes_out"],
        cpu_s=grown("cpu_s"),
    )
