"""The other people's brokers that a node uses: its hubs and bridges, together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.bridge import Bridge
from broker.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence
    from random import Random

    from broker.bridge import BridgeAt, BridgeOwner, BridgeStatistics
    from broker.hub import HubAt, HubOwner, HubStatistics

__all__ = ["Foreign"]


class Foreign:
    """All of one node.

    Args:
        device: Its id.
        linkage: Takes the links that hubs make.
        node: Takes and gives what crosses bridges.
        hubs: Where it meets others.
        bridges: Whose clients it joins to the mesh.
        random: Jitter.
        secured: Whether the device belongs to a fleet with identities.
    """

    def __init__(
        self,
        device: str,
        linkage: HubOwner,
        node: BridgeOwner,
        hubs: Sequence[HubAt],
        bridges: Sequence[BridgeAt],
        random: Random,
        *,
        secured: bool,
    ) -> None:
        self.hubs = [Hub(device, at, linkage, random) for at in hubs]
        self.bridges = [Bridge(device, at, node, random, secured=secured) for at in bridges]

    def runs(self) -> Iterator[tuple[str, Coroutine[None, None, None]]]:
        """What is to be run, with a name."""
        for hub in self.hubs:
            yield "hub", hub.run()
        for bridge in self.bridges:
            yield "bridge", bridge.run()

    def leave(self) -> bool:
        """Leave the bridges to other devices. True if that was published; hubs are left when they are cancelled."""
        for bridge in self.bridges:
            bridge.leave()
        return bool(self.bridges)

    def link_changed(self, peer: str, up: bool) -> None:  # noqa: FBT001 - called for each link
        """A link has come up, or gone."""
        for hub in self.hubs if not up else ():
            hub.link_lost(peer)

    def hub_statistics(self) -> tuple[HubStatistics, ...]:
        """What there is to say of the hubs."""
        return tuple(hub.statistics() for hub in self.hubs)

    def bridge_statistics(self) -> tuple[BridgeStatistics, ...]:
        """What there is to say of the bridges."""
        return tuple(bridge.statistics() for bridge in self.bridges)
