"""What following a model needs of its device, as plain functions: so it runs without a mesh, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from agent.messages import ModelStatus

__all__ = ["Fleet", "Surroundings"]


class Fleet(NamedTuple):
    """What is seen of the other devices."""

    alive: Collection[str]
    statuses: Mapping[str, ModelStatus]
    """By device: what each said last of this model."""


class Surroundings(NamedTuple):
    """What a follower needs of its device."""

    device: str
    tell: Callable[[ModelStatus], None]
    """Is given each new status."""
    clock_ms: Callable[[], int]
    """Wall time in milliseconds."""
    fleet: Callable[[], Fleet]
    fits: Callable[[tuple[int, ...]], str]
    """Why the device's features do not fill an input of that shape; empty: they do."""
