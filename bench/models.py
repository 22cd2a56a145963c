"""`models`: how a version of a model reaches a fleet, and what that costs those who have urgent things to say.

Everything by mutual TLS with tags, as devices run. Ten whole devices, one of which has a version of 4 MB
(`models_rollout.py`); then lean ones: one hop beside a chain of five, and one that is killed at half of what it fetches
and begins again (`models_lean.py`). A version of which one layer was trained further travels as a delta.

What nobody has in time, or what is lost on its way, is a problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from bench.models_lean import chain, delta, killed
from bench.models_rollout import roll_out
from bench.networks import convolutions, dense
from bench.result import Result
from bench.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much."""

    devices: int = 10
    windows: int = 9
    rate: float = 2.0
    """Obstacles, and inferences, a second of each device."""
    chain: int = 5
    chains: int = 3
    kills: int = 3
    network: Callable[[int], bytes] = convolutions
    """By seed."""


QUICK: Final = Plan(
    devices=3, windows=1, rate=10.0, chain=3, chains=1, kills=1, network=partial(dense, 512, 512)
)


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Tell the stories: rollout, chain, killed and delta."""
    plan = QUICK if quick else Plan()
    result = Result("models")
    if not only or "rollout" in only:
        async with Stage() as stage:
            await roll_out(
                stage,
                result,
                plan.network,
                devices=plan.devices,
                windows=plan.windows,
                rate=plan.rate,
            )
    if not only or "chain" in only:
        async with Stage() as stage:
            await chain(stage, result, plan.network, devices=plan.chain, windows=plan.chains)
    if not only or "killed" in only:
        async with Stage() as stage:
            await killed(stage, result, plan.network, times=plan.kills)
    if not only or "delta" in only:
        async with Stage() as stage:
            await delta(stage, result)
    return result
