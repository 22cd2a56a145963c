"""`overhead`: what the links carry for the fleet's traffic, over the ideal of one copy to each other device.

`tree_copies` counts bundle transmissions, `tree_bytes` every byte on every link (headers, announcements, digests and
pings too) over the payload bytes of the ideal. `flood_copies` is the same for urgent topics, which go over every link
at once; a graph with E links cannot do better than (2E - (N - 1)) / (N - 1) without knowing who has what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.members import Fleet, scale_free
from bench.result import Result
from bench.stage import Stage

__all__ = ["run"]

SIZE_BYTES: Final = 1024
TREE_TOPIC: Final = "bench/{}"
FLOOD_TOPIC: Final = "flock/v1/city/obstacle/{}/bench"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much traffic."""

    devices: int = 24
    links: tuple[int, ...] = (2, 6)
    rate: float = 100
    warm_up_s: float = 5.0
    seconds: float = 15.0


QUICK: Final = Plan(devices=5, links=(2,), rate=20, warm_up_s=0.5, seconds=0.5)


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Measure trees and flood on each graph; the ratios are the worst of the graphs."""
    del only  # one system
    plan = QUICK if quick else Plan()
    result = Result("overhead")
    for links in plan.links:
        edges = scale_free(plan.devices, links)
        others = plan.devices - 1
        async with Stage() as stage:
            fleet = await Fleet.start(stage, plan.devices, edges)
            for lane, topic in (("tree", TREE_TOPIC), ("flood", FLOOD_TOPIC)):
                await fleet.traffic(
                    rate=plan.rate, seconds=plan.warm_up_s, size_bytes=SIZE_BYTES, topic=topic
                )
                before = await fleet.carried()
                sent = await fleet.traffic(
                    rate=plan.rate, seconds=plan.seconds, size_bytes=SIZE_BYTES, topic=topic
                )
                after = await fleet.carried()
                ideal = len(sent.published) * others
                copies = (after[1] - before[1]) / ideal
                size = (after[0] - before[0]) / (ideal * SIZE_BYTES)
                name = f"{lane}, m = {links}"
                bound = (2 * len(edges) - others) / others
                result.add(name, copies=copies, bytes_over_ideal=size, delivered=sent.delivered)
                _worst(result, f"{lane}_copies", copies)
                if lane == "tree":
                    _worst(result, "tree_bytes", size)
                else:
                    result.add(name, copies_bound=bound)
                    result.ratios[f"flood_copies_bound_m{links}"] = bound
                    result.ratios[f"flood_copies_m{links}"] = copies
                if sent.delivered < 1:
                    result.problems.append(f"{name}: {sent.delivered:.4f} delivered")
    return result


def _worst(result: Result, figure: str, value: float) -> None:
    known = result.ratios.get(figure)
    result.ratios[figure] = max(value, known) if isinstance(known, float) else value
