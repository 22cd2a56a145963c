"""`slow`: one neighbour stops reading for 30 s while its neighbour publishes 5,000 kept messages a second.

A star: one device in the middle publishes, three others hear it. Once the third is stopped (SIGSTOP: its sockets stay
open and its kernel takes what fits), once a neighbour is added that pings and never reads. Watched: the other two's
latency while it lasts over before (medians over windows of 2 s), the publisher's memory, and whether the third has
everything after it goes on.

The messages are small enough for all of the 30 s to fit the log that repairs (16 MiB); more would be lost for the slow
one, as an event, which is the retention bound and not what this is about.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.demo.procfs import rss_mb
from bench.figures import median
from bench.members import Fleet
from bench.result import Result
from bench.stage import Stage

if TYPE_CHECKING:
    from bench.stage import Role

__all__ = ["run"]

EDGES: Final = [(0, 1), (0, 2), (0, 3)]
SIZE_BYTES: Final = 64
BURST: Final = 25
AHEAD_S: Final = 0.25
WINDOWS: Final = 5
"""The time before is cut into so many windows, the time that it lasts into windows of the same length."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each part lasts."""

    rate: int = 5_000
    warm_up_s: float = 3.0
    before_s: float = 10.0
    stopped_s: float = 30.0
    after_s: float = 2.0
    catch_up_s: float = 60.0


QUICK: Final = Plan(
    rate=1_000, warm_up_s=0.2, before_s=0.5, stopped_s=0.5, after_s=0.2, catch_up_s=20.0
)


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Both ways of not reading; the ratios are those of the worse."""
    plan = QUICK if quick else Plan()
    result = Result("slow")
    worst: list[tuple[float, float]] = []
    for name in ("stopped process", "reads nothing"):
        if only and name not in only:
            continue
        async with Stage() as stage:
            worst.append(await _story(stage, name, plan, result))
    result.ratios["p99_over_before"], result.ratios["p99_difference_ms"] = max(worst)
    return result


async def _story(stage: Stage, name: str, plan: Plan, result: Result) -> tuple[float, float]:
    fleet = await Fleet.start(stage, 4, EDGES)
    middle, *others, third = fleet.members
    seconds = plan.warm_up_s + plan.before_s + plan.stopped_s + plan.after_s
    start_ns = time.monotonic_ns() + int(AHEAD_S * 1e9)
    publishing = asyncio.create_task(_publish(middle, plan, seconds, start_ns))
    before_ns = start_ns + int(plan.warm_up_s * 1e9)
    stopped_ns = before_ns + int(plan.before_s * 1e9)
    again_ns = stopped_ns + int(plan.stopped_s * 1e9)
    await _until(stopped_ns)
    memory_mb = rss_mb({middle.pid}) or 0.0
    peak = asyncio.create_task(_peak_mb(middle.pid, again_ns))
    if name == "stopped process":
        os.kill(third.pid, signal.SIGSTOP)
        try:
            await _until(again_ns)
        finally:
            os.kill(third.pid, signal.SIGCONT)
        memory_peak_mb = await peak
    else:
        await stage.role("tarpit", "bench.tarpit:Tarpit", to="d0", port=middle.opened)
        memory_peak_mb = await peak
    published = await publishing
    ended_ns = time.monotonic_ns()
    caught_up = [
        await one.ask("wait_count", count=published, within_s=plan.catch_up_s)
        for one in (*others, third)
    ]
    every_ns = int(plan.before_s / WINDOWS * 1e9)
    p99_before_ms = await _tail(others, before_ns, stopped_ns, every_ns)
    p99_during_ms = await _tail(others, stopped_ns, again_ns, every_ns)
    ratio = p99_during_ms / p99_before_ms
    lost = [published - await one.ask("distinct") for one in (*others, third)]
    result.add(
        name,
        p99_before_ms=p99_before_ms,
        p99_during_ms=p99_during_ms,
        p99_difference_ms=p99_during_ms - p99_before_ms,
        p99_over_before=ratio,
        rss_before_mb=memory_mb,
        rss_peak_mb=memory_peak_mb,
        published=published,
        others_lack=max(lost[:-1]),
        slow_one_lacks=lost[-1],
        caught_up_after_ms=max(0.0, (caught_up[-1] - ended_ns) / 1e6),
    )
    if any(lost):
        result.problems.append(f"{name}: the others lack {lost[:-1]}, the slow one {lost[-1]}")
    return ratio, p99_during_ms - p99_before_ms


async def _publish(middle: Role, plan: Plan, seconds: float, at_ns: int) -> int:
    every_s = BURST / plan.rate
    published: int = await middle.ask(
        "pour",
        topic="b/a",
        turns=round(seconds / every_s),
        burst=BURST,
        size_bytes=SIZE_BYTES,
        at_ns=at_ns,
        every_s=every_s,
    )
    return published


async def _tail(others: list[Role], after_ns: int, until_ns: int, every_ns: int) -> float:
    """The median 99th percentile over windows and devices, in ms."""
    tails: list[float] = []
    for one in others:
        tails += await one.ask("tails", after_ns=after_ns, until_ns=until_ns, every_ns=every_ns)
    return median(tails)


async def _until(at_ns: int) -> None:
    await asyncio.sleep(max(0.0, (at_ns - time.monotonic_ns()) / 1e9))


async def _peak_mb(pid: int, until_ns: int) -> float:
    peak = 0.0
    while time.monotonic_ns() < until_ns:
        peak = max(peak, rss_mb({pid}) or 0.0)
        await asyncio.sleep(0.1)
    return peak
