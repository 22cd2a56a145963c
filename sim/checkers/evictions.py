"""Whose retained map has given way to its limits: such a device may hear what it let go again, and older values too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.watcher import Watcher

if TYPE_CHECKING:
    from broker.mesh.events import Changes
    from sim.network import Network

__all__ = ["Evictions"]


class Evictions(Watcher):
    """Notes the devices that evicted something, for checkers that would take what follows for a violation."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.devices: set[str] = set()

    def committed(self, now_ns: int, device: str, changes: Changes) -> None:
        """What was evicted has changed the map."""
        mesh = self._network.devices[device].running
        if changes.retained and mesh._state.counters["retained_evicted"]:
            self.devices.add(device)
