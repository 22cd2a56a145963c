"""Who is linked with whom: connected random graphs, and the plain ones that scenarios use."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from sim.links import Edge

__all__ = ["line", "names", "random_graph", "ring"]


def names(count: int) -> list[str]:
    """Device ids."""
    return [f"n{number}" for number in range(count)]


def line(devices: list[str]) -> list[Edge]:
    """Each linked with the next."""
    return list(pairwise(devices))


def ring(devices: list[str]) -> list[Edge]:
    """A line whose ends are linked."""
    return [*line(devices), (devices[0], devices[-1])]


def random_graph(devices: list[str], degree: int, random: Random) -> list[Edge]:
    """Connected, every device with about `degree` links: random rings on top of each other, or a tree for 1.

    Rings share a few edges, so some devices have a link or two less.
    """
    if degree < 2 or len(devices) < 3:
        return [
            (random.choice(devices[:number]), devices[number]) for number in range(1, len(devices))
        ]
    edges: dict[Edge, None] = {}
    for _ in range(degree // 2):
        around = list(devices)
        random.shuffle(around)
        edges.update(dict.fromkeys((min(edge), max(edge)) for edge in ring(around)))
    return sorted(edges)
