"""`fleet`: 24 device processes on a scale-free graph, 100 kept messages of 1 KB a second in all; 48 at 200 beside it.

What a message's spread is: from its publish until the last device has it. The bars are published figures for gossipsub
at 95 nodes; all processes share this machine's cores, so the figures grow with what else it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.figures import percentile
from bench.members import Fleet, scale_free
from bench.result import Result
from bench.stage import Stage

__all__ = ["run"]

SIZE_BYTES: Final = 1024
WARM_UP_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Setting:
    """One fleet."""

    devices: int
    links: int
    rate: float
    seconds: float
    barred: bool
    """Whether its figures stand under `ratios`."""


SETTINGS: Final = (
    Setting(24, 2, 100, 20, barred=True),
    Setting(24, 6, 100, 20, barred=True),
    Setting(48, 2, 200, 10, barred=False),
    Setting(48, 6, 200, 10, barred=False),
)
QUICK: Final = (Setting(5, 2, 20, 0.5, barred=True),)


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Measure each fleet; `only` picks by name, such as `24 devices, m = 6`."""
    result = Result("fleet")
    delivered, duplicates = 1.0, 0
    for setting in QUICK if quick else SETTINGS:
        name = f"{setting.devices} devices, m = {setting.links}"
        if only and name not in only:
            continue
        async with Stage() as stage:
            edges = scale_free(setting.devices, setting.links)
            fleet = await Fleet.start(stage, setting.devices, edges)
            warm_up_s = setting.seconds if quick else WARM_UP_S
            await fleet.traffic(rate=setting.rate, seconds=warm_up_s, size_bytes=SIZE_BYTES)
            cpu_s = stage.cpu_s()
            sent = await fleet.traffic(
                rate=setting.rate, seconds=setting.seconds, size_bytes=SIZE_BYTES
            )
            cpu_s = stage.cpu_s() - cpu_s
        spread = sent.spread_ms()
        mean_ms = sum(spread) / len(spread) if spread else None
        result.add(
            name,
            links=len(edges),
            messages=len(sent.published),
            delivered=sent.delivered,
            duplicates=sent.duplicates,
            mean_spread_ms=mean_ms,
            p99_spread_ms=percentile(spread, 99),
            cpu_cores=cpu_s / setting.seconds,
        )
        if sent.delivered < 1 or sent.duplicates:
            result.problems.append(
                f"{name}: {sent.delivered:.4f} delivered, {sent.duplicates} twice"
            )
        if setting.barred:
            delivered = min(delivered, sent.delivered)
            duplicates += sent.duplicates
            result.ratios[f"mean_spread_ms_m{setting.links}"] = mean_ms
    result.ratios |= {"delivered": delivered, "duplicates": duplicates}
    return result
