"""What a node has counted since its start, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.bridge import BridgeStatistics
    from broker.commits import Commits
    from broker.embedded.broker import EmbeddedBroker
    from broker.embedded.statistics import Statistics as BrokerStatistics
    from broker.foreign import Foreign
    from broker.hub import HubStatistics
    from broker.links import Links
    from broker.mesh.mesh import Mesh
    from broker.mesh.state import Statistics as MeshStatistics
    from broker.troubles import Troubles

__all__ = ["NodeStatistics", "node_statistics"]


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


def node_statistics(
    mesh: Mesh,
    broker: EmbeddedBroker,
    commits: Commits,
    troubles: Troubles,
    links: Links,
    foreign: Foreign,
) -> NodeStatistics:
    """Ask the parts of a node."""
    return NodeStatistics(
        mesh=mesh.statistics(),
        broker=broker.statistics(),
        commits=commits.commits,
        commits_failed=commits.failed,
        syncs=commits.syncs,
        syncs_failed=commits.syncs_failed,
        gaps=troubles.gaps,
        last_gap=troubles.last_gap,
        last_problem=troubles.last_problem or links.refused,
        dial_failures=links.failures(),
        closed_links=dict(troubles.closed_links),
        hubs=foreign.hub_statistics(),
        bridges=foreign.bridge_statistics(),
    )
