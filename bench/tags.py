"""`tags`: what mutual TLS and integrity tags cost the row of three of `chain`.

The same row four times: plain links, links by mutual TLS, and besides those bundles tagged by the key of the fleet
(`mac`) or by the signatures of their origins (`signed`). Windows are short and go round the rows, forth and back. Each
round is held against itself: a row's window over, or less, that of the row by TLS without tags in the same round; the
figure is the median over the rounds, with the quartiles beside it. So a machine that becomes slower on the way does not
count as the cost of a tag, and how much the rounds differ is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.chain import QUICK, RATES, Plan, measure
from bench.figures import median, percentile
from bench.result import Result
from bench.systems.flockmq import PLAIN, Flockmq

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.chain import Lane
    from bench.systems.row import System

__all__ = ["run"]

_WITHOUT: Final = "flockmq, tls"
_PLAN: Final = Plan(windows=15, throughput_s=0.5, latency_s=1.0, sweep_s=0)


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Measure."""
    result = Result("tags")
    rows: list[System] = [Flockmq(security) for security in (PLAIN, "tls", "mac", "signed")]
    chosen = [row for row in rows if not only or row.name in only]
    lanes = await measure(chosen, QUICK if quick else _PLAN, result)
    for name in ("mac", "signed"):
        _compare(result, name, lanes.get(f"flockmq, {name}"), lanes.get(_WITHOUT))
    return result


def _compare(result: Result, name: str, tagged: Lane | None, without: Lane | None) -> None:
    """Put in what tags cost, round by round."""
    if tagged is None or without is None:
        return

    def note(
        figure: str, ours: list[float], theirs: list[float], cost: Callable[[float, float], float]
    ) -> None:
        rounds = [cost(mine, other) for mine, other in zip(ours, theirs, strict=False)]
        result.ratios[figure] = median(rounds)
        result.ratios[f"{figure}_q1"] = percentile(rounds, 25)
        result.ratios[f"{figure}_q3"] = percentile(rounds, 75)

    note(f"updates_per_s_{name}_vs_tls", tagged.throughput, without.throughput, _over)
    # The first window warms up.
    note(f"cpu_us_{name}_vs_tls", tagged.cpu_us[1:], without.cpu_us[1:], _over)
    for rate in RATES:
        note(f"p50_ms_{rate}_{name}_more", tagged.p50_ms[rate], without.p50_ms[rate], _less)


def _over(mine: float, other: float) -> float:
    return mine / other


def _less(mine: float, other: float) -> float:
    return mine - other
