"""Between a replica as it is published and as it is joined.

Decides: how replicas are named. `device:incarnation`, so that a device that lost its disk never
counts under a name it has used before.
Assumes: messages that `agent.messages` has validated.
On failure: `PayloadInvalid` from `encode`, when a state has outgrown its bounds.
"""

from agent.crdt.counters import PnCounter
from agent.crdt.orset import OrSet
from agent.messages import Count, TaskSet

__all__ = ["counter_of", "replica_name", "task_set_of", "to_count", "to_task_set"]


def replica_name(device: str, incarnation: int) -> str:
    """The replica that `device` writes in this incarnation."""
    return f"{device}:{incarnation}"


def counter_of(device: str, message: Count) -> PnCounter:
    """The counter that `device` published."""
    return PnCounter.of(
        {f"{device}:{incarnation}": pair for incarnation, pair in message.replicas.items()}
    )


def to_count(device: str, counter: PnCounter) -> Count:
    """What `device` publishes of a counter: its own replicas of all incarnations."""
    return Count(
        replicas={
            replica.removeprefix(device + ":"): pair
            for replica, pair in counter.replicas()
            if replica.startswith(device + ":")
        }
    )


def task_set_of(message: TaskSet) -> OrSet:
    """The set that a device published."""
    return OrSet(
        {element: frozenset(dots) for element, dots in message.elements.items()}, message.context
    )


def to_task_set(tasks: OrSet) -> TaskSet:
    """What a device publishes of a set: all of it, since a removal is what its context has seen."""
    return TaskSet(
        elements={element: tuple(sorted(dots)) for element, dots in sorted(tasks.elements.items())},
        context=dict(tasks.context),
    )
