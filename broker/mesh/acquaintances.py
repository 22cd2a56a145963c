"""What is remembered of neighbours whose link is down, so that a link that comes back costs what changed since.

Decides when what was told in the last session still stands: when the neighbour has the incarnation that it had, so that
it has not booted and remembers as well. Whatever was under way when the link went down is missing on the other side;
the hash in the next digest shows it, and the neighbour asks again. One that is not remembered is told everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.mesh.limits import ACQUAINTANCES_MAX

if TYPE_CHECKING:
    from broker.mesh.bundle import Stream
    from broker.mesh.peer import Peer
    from broker.mesh.progress import Progress

__all__ = ["Acquaintances"]


class _Acquaintance(NamedTuple):
    """How far both sides were."""

    incarnation: int
    progress: Progress
    ahead: list[Stream]
    """Streams in which the neighbour stood further."""


class Acquaintances:
    """Neighbours whose link is down, those that left last."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, _Acquaintance] = {}

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, peer: Peer, ahead: list[Stream]) -> None:
        """A neighbour's link is down; in these streams it stood further than this device."""
        if peer.hello is None:
            return  # what was known before still is
        self._known.pop(peer.name, None)
        if len(self._known) >= ACQUAINTANCES_MAX:
            del self._known[next(iter(self._known))]
        peer.progress.link_lost()
        self._known[peer.name] = _Acquaintance(peer.hello.incarnation, peer.progress, ahead)

    def recall(self, peer: Peer) -> list[Stream]:
        """A neighbour has introduced itself: go on where it was. Returns the streams in which it stood further."""
        known = self._known.pop(peer.name, None)
        if known is None or peer.hello is None or known.incarnation != peer.hello.incarnation:
            return []
        peer.progress = known.progress
        return known.ahead
