"""Which faults a run has, and how many of each: every seed draws its own mix (swarm testing).

A mix that has everything hides what happens when something is missing, so each kind is left out of about half of the
seeds. Rates are per second and fleet; ranges after TigerBeetle's simulator, shortened to the time scale of a run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from random import Random

__all__ = ["KINDS", "Mix", "draw", "kinds_of", "pick"]

KINDS: Final = ("latency", "clog", "partition", "restart", "clock", "hub", "tight", "burst")


@dataclass(frozen=True, slots=True)
class Mix:
    """The faults of one run. Zero and False: that kind does not happen."""

    latency_min_ms: float = 1.0
    latency_more_ms: float = 2.0
    clogs_per_s: float = 0.0
    clog_ms: float = 0.0
    capacity_bytes: int = 0
    """Of every path; 0: what a healthy one has."""
    partitions_per_s: float = 0.0
    partition_ms: float = 0.0
    asymmetric: float = 0.0
    """Share of the partitions in which one direction still works."""
    silent: float = 0.0
    """Share of the others that no socket reports."""
    restarts_per_s: float = 0.0
    down_ms: float = 0.0
    power: float = 0.0
    """Share of the deaths by power cut."""
    disk: float = 0.0
    """Share of the deaths with the disk."""
    half_way: float = 0.0
    """Share of the deaths between a commit and what follows it."""
    clocks_per_s: float = 0.0
    hubs: float = 0.0
    """Share of the links that lead through somebody else's broker."""
    hub_loss: float = 0.0
    hub_duplicate: float = 0.0
    hub_reorder: float = 0.0
    tight: bool = False
    """Whether all limits of the mesh are small, so that they are met."""
    burst: int = 1
    """How many messages are published at a time, at most."""

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


def draw(random: Random, kinds: list[str] | None = None) -> Mix:
    """A mix of its own for a seed; with `kinds` exactly these.

    Everything is drawn, then kinds are left out, so that what one kind does is the same with and without the others.
    """
    full = Mix(
        latency_min_ms=random.uniform(0, 30),
        latency_more_ms=random.uniform(1, 60),
        clogs_per_s=random.uniform(0.1, 2),
        clog_ms=random.uniform(50, 3_000),
        capacity_bytes=random.choice([2_000, 8_000, 64_000]),
        partitions_per_s=random.uniform(0.05, 1),
        partition_ms=random.uniform(100, 4_000),
        asymmetric=random.random(),
        silent=random.random(),
        restarts_per_s=random.uniform(0.05, 0.8),
        down_ms=random.uniform(20, 3_000),
        power=random.choice([0.0, 0.3]),
        disk=random.choice([0.0, 0.0, 0.2]),
        half_way=random.choice([0.0, 0.3]),
        clocks_per_s=random.uniform(0.1, 1),
        hubs=random.uniform(0.1, 1),
        hub_loss=random.uniform(0, 0.3),
        hub_duplicate=random.uniform(0, 0.5),
        hub_reorder=random.uniform(0, 0.3),
        tight=True,
        burst=random.randint(2, 60),
    )
    drawn = [kind for kind in KINDS if random.random() < 0.5]
    return pick(full, drawn if kinds is None else kinds)


def pick(full: Mix, kinds: list[str]) -> Mix:
    """Only these kinds of a mix."""
    fields: dict[str, tuple[str, ...]] = {
        "latency": ("latency_min_ms", "latency_more_ms"),
        "clog": ("clogs_per_s", "clog_ms", "capacity_bytes"),
        "partition": ("partitions_per_s", "partition_ms", "asymmetric", "silent"),
        "restart": ("restarts_per_s", "down_ms", "power", "disk", "half_way"),
        "clock": ("clocks_per_s",),
        "hub": ("hubs", "hub_loss", "hub_duplicate", "hub_reorder"),
        "tight": ("tight",),
        "burst": ("burst",),
    }
    chosen = {name: getattr(full, name) for kind in kinds for name in fields[kind]}
    return replace(Mix(), **chosen)


def kinds_of(mix: Mix) -> list[str]:
    """The kinds that a mix has."""
    nothing = Mix()
    return [kind for kind in KINDS if pick(mix, [kind]) != nothing]
