"""Where unicast goes: for each device the neighbours through which its bundles came, the fastest first.

Decides the next hop. A device that is a neighbour is its own way; else it is the neighbour that brought its last bundle
first, and then another one that brought a copy or did so before. Assumes that links carry both ways. A way that turns
out wrong is dropped when the neighbour says so, and learned again with the next bundle.
Source: reverse path forwarding (Dalal and Metcalfe, 1978); ways dropped by answer as in AODV's route errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.mesh.limits import ROUTES_MAX

if TYPE_CHECKING:
    from broker.mesh.peer import Peer

__all__ = ["Routes"]


class Routes:
    """By device: up to two neighbours that lead to it."""

    __slots__ = ("_found", "_peers", "_ways")

    def __init__(self, peers: dict[str, Peer]) -> None:
        self._peers = peers
        self._ways: dict[str, tuple[str, ...]] = {}
        self._found: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._ways)

    def first(self, device: str, peer: str) -> None:
        """A bundle of a device came through this neighbour before it came through any other."""
        ways = self._ways.get(device)
        if ways is None:
            self._add(device, peer)
        elif ways[0] != peer:
            self._ways[device] = (peer, ways[0])

    def copy(self, device: str, peer: str) -> None:
        """A bundle of a device that was known came through this neighbour too."""
        ways = self._ways.get(device)
        if ways is None:
            self._add(device, peer)
        elif peer not in ways:
            self._ways[device] = (ways[0], peer)

    def ways(self, device: str, but: str = "") -> list[str]:
        """Neighbours that lead to a device, best first: all that read, without the one it came from."""
        known = (device, *self._ways.get(device, ()))
        return [
            name
            for name in dict.fromkeys(known)
            if name != but and (peer := self._peers.get(name)) is not None and peer.listens
        ]

    def note_neighbour(self, peer: str) -> None:
        """A neighbour has introduced itself."""
        self._found[peer] = None

    def take_found(self) -> list[str]:
        """Devices to which there was no way when this was last asked, and there is one now."""
        if not self._found:
            return []
        found, self._found = list(self._found), {}
        return found

    def drop(self, device: str, peer: str) -> None:
        """This neighbour says that it leads there no longer."""
        ways = tuple(name for name in self._ways.get(device, ()) if name != peer)
        if ways:
            self._ways[device] = ways
        else:
            self._ways.pop(device, None)

    def forget_peer(self, peer: str) -> None:
        """A link is gone, and what led through it."""
        for device in [device for device, ways in self._ways.items() if peer in ways]:
            self.drop(device, peer)

    def _add(self, device: str, peer: str) -> None:
        if len(self._ways) >= ROUTES_MAX:
            del self._ways[next(iter(self._ways))]
        self._ways[device] = (peer,)
        self._found[device] = None
