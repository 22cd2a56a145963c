"""A switch that silences links without closing their sockets, as a lost radio does.

Made for fault drills: `flockmq demo` cuts the fleet in two with it. While a neighbour is silenced nothing is read
from its link, nothing written to it, and dialling it gets no answer, so it is dialled again as late as on a real
network: nobody is told that the radio is back. A pipe that is closed meanwhile keeps its socket open
until the radio is back, since no FIN would reach the other side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.embedded.ingress import Pipe

__all__ = ["Radio"]


class Radio:
    """Which neighbours can be heard."""

    def __init__(self) -> None:
        self._silenced: set[str] = set()
        self._limbo: list[Pipe] = []

    def silence(self, peers: Iterable[str]) -> None:
        """From now on these neighbours are neither heard nor reached."""
        self._silenced |= set(peers)

    def restore(self) -> None:
        """All neighbours can be heard again; sockets given up meanwhile are closed now."""
        self._silenced.clear()
        limbo, self._limbo = self._limbo, []
        for pipe in limbo:
            pipe.close()

    def hears(self, peer: str) -> bool:
        """Whether frames pass between here and there."""
        return peer not in self._silenced

    def close(self, peer: str, pipe: Pipe) -> None:
        """Close a pipe, now or when the other side can hear of it."""
        if self.hears(peer):
            pipe.close()
        else:
            self._limbo.append(pipe)
