"""What a node has counted since its start, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.bridge import BridgeStatistics
    from broker.embedded.statistics import Statistics as BrokerStatistics
    from broker.hub import HubStatistics
    from broker.mesh.state import Statistics as MeshStatistics

__all__ = ["NodeStatistics"]


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """What a node has counted since its start."""

    mesh: MeshStatistics
    broker: BrokerStatistics
    commits: int
    commits_failed: int
    syncs: int
    """Times that acknowledgements waited for the disk; each is for all turns before it."""
    syncs_failed: int
    gaps: int
    """Losses past everyone's retention."""
    last_gap: str
    """The last of them, as words."""
    last_problem: str
    """The last thing a neighbour or the disk did wrong, as a sentence."""
    dial_failures: dict[str, str]
    """By neighbour that is dialled and has no direct link: why the last attempt failed."""
    closed_links: dict[str, str]
    """By neighbour, the newest last: why this device closed its link to it, when it last did."""
    hubs: tuple[HubStatistics, ...]
    bridges: tuple[BridgeStatistics, ...]
