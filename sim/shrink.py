"""Finds a shorter story that breaks the same promise: fewer kinds of faults, fewer devices, less time.

Decides what to leave out, one thing at a time, for as long as it still fails and the effort lasts. Each part of a run
draws from a stream of its own, so what stays happens as before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sim.mix import kinds_of
from sim.story import tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sim.story import Options, Result

__all__ = ["shrink"]

TRIES: Final = 24
"""Runs at the most; each is as long as the one that failed, or shorter."""


def shrink(result: Result) -> Result:
    """The shortest story that was found; the given one if there is none."""
    promise = result.violations[0].promise
    kinds = kinds_of(result.mix)
    best = result
    tries = TRIES
    changed = True
    while changed and tries:
        changed = False
        for options in _shorter(best.options, kinds):
            if not tries:
                break
            tries -= 1
            attempt = tell(options)
            if any(row.promise == promise for row in attempt.violations):
                best, changed = attempt, True
                kinds = kinds_of(attempt.mix)
                break
    return best


def _shorter(options: Options, kinds: list[str]) -> Iterator[Options]:
    if options.nodes > 3:
        yield replace(options, nodes=max(3, options.nodes // 2))
    if options.seconds > 1:
        yield replace(options, seconds=options.seconds / 2)
    for kind in kinds:
        left = ",".join(other for other in kinds if other != kind)
        yield replace(options, faults=left or "none")
    if options.nodes > 3:
        yield replace(options, nodes=options.nodes - 1)
    if options.rate > 5:
        yield replace(options, rate=options.rate / 2)
