"""What must happen at least once in a sweep, or the sweep has tested less than it claims.

Each condition is a sum over all devices and boots of what the meshes count themselves.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from sim.watcher import Death, Watcher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.mesh.events import Gap
    from sim.network import Network

__all__ = ["MUST_HAPPEN", "Sometimes", "lacking"]

MUST_HAPPEN: Final = (
    "conflated",
    "died: disk",
    "died: killed",
    "died: power",
    "dropped",
    "expired",
    "gaps",
    "grafts",
    "held_back",
    "incarnation_raised",
    "prunes",
    "rebuilt",
    "reconciled",
    "refused",
    "superseded",
    "suspended",
    "unicast_acked",
    "wants",
)


class Sometimes(Watcher):
    """Counters over a whole run. Reads a device's before it dies, and all at the end."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._network: Network | None = None

    def watch(self, network: Network) -> None:
        """Count in this network."""
        self._network = network

    def dying(self, device: str) -> None:
        """Take what a device has counted, before it is gone."""
        assert self._network is not None
        mesh = self._network.devices[device].mesh
        if mesh is None:
            return
        statistics = mesh.statistics()
        self.counts.update(statistics.counters)
        for peer in statistics.peers:
            self.counts["conflated"] += peer.conflated
            self.counts["dropped"] += peer.dropped

    def died(self, now_ns: int, device: str, how: Death) -> None:
        """Deaths are counted by kind."""
        self.counts[f"died: {how}"] += 1

    def lost(self, now_ns: int, device: str, gap: Gap) -> None:
        """Gaps are counted as reported, too."""
        self.counts["gaps reported"] += 1

    def finish(self) -> None:
        """Take what all devices have counted."""
        assert self._network is not None
        for name in self._network.devices:
            self.dying(name)


def lacking(counts: Mapping[str, int]) -> list[str]:
    """What should have happened in a sweep and never did."""
    return [name for name in MUST_HAPPEN if not counts.get(name)]
