"""Every bounded structure of every device stays within its limit, at every moment that is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.mesh import limits
from sim.checkers.checker import Checker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.mesh.mesh import Mesh
    from sim.network import Network

__all__ = ["Memory"]


class Memory(Checker):
    """Bounds."""

    promise = "memory stays within its limits"

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network

    def look(self, name: str) -> None:
        """Hold one device against its limits."""
        mesh = self._network.devices[name].mesh
        if mesh is None:
            return
        for what, size, limit in _sizes(mesh):
            if size > limit:
                self.violated(self._network.now_ns, name, f"{what} is {size}, its limit {limit}")


def _sizes(mesh: Mesh) -> Iterator[tuple[str, int, int]]:
    state = mesh._state
    yield "log bundles", len(state.log), limits.LOG_BUNDLES_MAX
    yield "log bytes", state.log.size_bytes, limits.LOG_BYTES_MAX
    yield "streams", len(state.kept) + len(state.fresh), limits.STREAMS_MAX
    yield "fresh topics", len(state.newest), limits.FRESH_TOPICS_MAX
    hard = limits.RETAINED_HARD_FACTOR
    yield "retained topics", len(state.retained), limits.RETAINED_TOPICS_MAX * hard
    waiting = [stream.waiting for stream in state.kept.values() if stream.waiting]
    yield "bundles waiting", max(map(len, waiting), default=0), limits.WAITING_BUNDLES_MAX
    weights = (stored.weight_bytes for rows in waiting for stored in rows.values())
    slack = 2 * limits.MESSAGE_BYTES_MAX
    yield "bytes waiting", sum(weights), limits.WAITING_BYTES_MAX + slack
    yield "ways", len(state.routes), limits.ROUTES_MAX
    yield "windows", len(state.windows), limits.UNICAST_SENDERS_MAX
    yield "unicast passing", len(state.passing), limits.UNICAST_PASSING_MAX
    yield "unicast under way", len(state.flights), limits.UNICAST_ALL_FLIGHTS_MAX
    yield "bytes under way", state.flights.size_bytes, limits.UNICAST_ALL_BYTES_MAX
    yield "events", len(state.events), 0
    yield "acquaintances", len(state.acquaintances), limits.ACQUAINTANCES_MAX
    for peer in state.peers.values():
        yield f"queue to {peer.name}", len(peer.outbox), limits.OUTBOX_BUNDLES_MAX
        yield f"bytes to {peer.name}", peer.outbox.size_bytes, limits.OUTBOX_BYTES_MAX
        yield f"control to {peer.name}", len(peer.outgoing.control), limits.CONTROL_RECORDS_MAX
        yield f"serving {peer.name}", len(peer.serving), limits.LOG_BUNDLES_MAX
        yield f"streams of {peer.name}", len(peer.progress.entries), limits.STREAMS_MAX
