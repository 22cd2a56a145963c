"""Many seeds, one after the other: what broke, and what never happened.

A sweep in which something that must happen never did has failed like one that found a violation: it tested less than
it claims.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sim.sometimes import lacking
from sim.story import tell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sim.story import Options, Result

__all__ = ["Sweep", "sweep"]


@dataclass(slots=True)
class Sweep:
    """What came of many seeds."""

    seeds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[Result] = field(default_factory=list)

    @property
    def lacking(self) -> list[str]:
        """What never happened."""
        return lacking(self.counts)


def sweep(options: Options, seeds: Iterable[int]) -> Sweep:
    """Tell every seed."""
    result = Sweep()
    for seed in seeds:
        told = tell(replace(options, seed=seed))
        result.seeds += 1
        result.counts.update(told.counts)
        if told.violations:
            result.failed.append(told)
    return result
