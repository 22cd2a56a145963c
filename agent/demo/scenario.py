"""What happens when: the timeline of a run, and the actor that plays it.

Decides: a third of the way one device is killed and started again OUTAGE_S later; half way an
operator publishes the second model version; at two thirds the fleet is cut in two for OUTAGE_S.
In a run so short that the faults would run into each other, or into the end, they last a sixth
of it. A calm run has no steps.
Assumes the stage does what it is told, in order. On failure: what the stage raises ends the play.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Act", "Stage", "Step", "play", "timeline"]

OUTAGE_S: Final = 3.0
"""Longer than the silence by which a neighbour is taken for gone, so that the others do miss it."""


class Act(Enum):
    """What can happen to the fleet."""

    KILL = "kill"
    START_AGAIN = "start again"
    NEW_MODEL = "new model"
    CUT = "cut"
    HEAL = "heal"


class Step(NamedTuple):
    """An act and when it is due."""

    at_s: float
    act: Act


class Stage(Protocol):
    """Where it happens."""

    async def perform(self, act: Act) -> None:
        """Do this now; returns when it is done."""


def timeline(seconds: float, *, calm: bool) -> tuple[Step, ...]:
    """The steps of a run of so many seconds, in order."""
    if calm:
        return ()
    outage_s = min(OUTAGE_S, seconds / 6)
    killed_s, cut_s = seconds / 3, seconds * 2 / 3
    steps = (
        Step(killed_s, Act.KILL),
        Step(killed_s + outage_s, Act.START_AGAIN),
        Step(seconds / 2, Act.NEW_MODEL),
        Step(cut_s, Act.CUT),
        Step(cut_s + outage_s, Act.HEAL),
    )
    return tuple(sorted(steps, key=lambda step: step.at_s))


async def play(
    steps: tuple[Step, ...], stage: Stage, wait_until: Callable[[float], Awaitable[None]]
) -> None:
    """Perform the steps.

    Args:
        steps: In order.
        stage: Where.
        wait_until: Returns when that second of the run has come.
    """
    for step in steps:
        await wait_until(step.at_s)
        await stage.perform(step.act)
