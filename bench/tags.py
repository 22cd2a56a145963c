"""`tags`: what mutual TLS and integrity tags cost the row of three of `chain`, in alternating windows.

The same row four times: plain links, links by mutual TLS, and besides those bundles tagged by the key of the fleet
(`mac`) or by the signatures of their origins (`signed`). Ratios are over the row by TLS without tags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.chain import QUICK, RATES, Plan, measure
from bench.figures import ratio
from bench.result import Result
from bench.systems.flockmq import PLAIN, Flockmq

if TYPE_CHECKING:
    from bench.systems.row import System

__all__ = ["run"]

_WITHOUT: Final = "flockmq, tls"


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Measure."""
    plan = QUICK if quick else Plan(windows=7, throughput_s=1.0, sweep_s=0)
    result = Result("tags")
    rows: list[System] = [Flockmq(security) for security in (PLAIN, "tls", "mac", "signed")]
    await measure([row for row in rows if not only or row.name in only], plan, result)
    before = result.systems.get(_WITHOUT, {})
    for name in ("mac", "signed"):
        found = result.systems.get(f"flockmq, {name}", {})
        ours, theirs = (_number(row, "updates_per_s") for row in (found, before))
        result.ratios[f"updates_per_s_{name}_vs_tls"] = ratio(ours, theirs)
        for rate in RATES:
            ours, theirs = (_number(row, f"p50_ms_{rate}") for row in (found, before))
            if ours is not None and theirs is not None:
                result.ratios[f"p50_ms_{rate}_{name}_more"] = ours - theirs
    return result


def _number(row: dict[str, float | int | str | bool | None], figure: str) -> float | None:
    value = row.get(figure)
    return value if isinstance(value, float | int) else None
