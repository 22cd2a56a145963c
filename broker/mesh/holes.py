"""A hole in a stream, and which neighbours could fill it.

Decides whom to ask next. Neighbours that claim to hold what is missing come first, one after the other; whoever has
left WANT_FRUITLESS_MAX requests unanswered is passed over. Where nobody claims to, everybody is asked in turn: one may
hold it behind a hole of its own.

Assumes that claims may be lies: they cost requests, and no more.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from broker.mesh.bundle import START
from broker.mesh.limits import WANT_FRUITLESS_MAX

if TYPE_CHECKING:
    from broker.mesh.bundle import Position, Stream
    from broker.mesh.peer import Peer
    from broker.mesh.streams import KeptStream

__all__ = ["Hole", "Search"]


class Hole:
    """Something of a stream that is missing here, and what was done about it."""

    __slots__ = (
        "asked_ns",
        "asked_of",
        "asked_upto",
        "due_ns",
        "fruitless",
        "graft",
        "hopeless_ns",
        "position",
        "searched_upto",
        "served_upto",
        "source",
    )

    def __init__(self, due_ns: int) -> None:
        self.due_ns = due_ns
        self.graft = False
        """Whether it shows that the origin's tree is broken."""
        self.source = ""
        """Who sent what cannot be passed yet."""
        self.asked_of = ""
        self.asked_ns = 0
        self.asked_upto = START
        self.position = START
        """Where the stream stood when somebody was to be asked last."""
        self.served_upto = START
        """What was asked for has come up to here; what still misses before it was lost on the way."""
        self.searched_upto = START
        """Up to here everything was asked for while something before it was, which is given up."""
        self.fruitless: Counter[str] = Counter()
        """By neighbour that was asked at this position: requests that brought nothing and break its word."""
        self.hopeless_ns: int | None = None
        """Since when no neighbour has been able to fill it."""


class Search:
    """One look at a hole: where this device and all neighbours stand in its stream at this moment."""

    __slots__ = ("_peers", "ahead", "hole", "mine", "position", "stream")

    def __init__(
        self, stream: Stream, hole: Hole, mine: KeptStream | None, peers: dict[str, Peer]
    ) -> None:
        self.stream = stream
        self.hole = hole
        self.mine = mine
        """What has come of the stream; None: nothing."""
        self.position = mine.position if mine else START
        self._peers = peers
        self.ahead: dict[str, tuple[Position, Position]] = {}
        """The neighbours that stand further, by name: where, and from where on they hold it."""
        for name, peer in peers.items():
            stands = peer.progress.position(stream)
            if stands > self.position:
                known = peer.progress.entries.get(stream)
                self.ahead[name] = (stands, known[1] if known is not None else START)

    def able(self) -> list[str]:
        """The neighbours that claim to hold what is missing and have not claimed so in vain.

        An origin's own claim stands for ever: nobody knows better, and by a lie it harms only what it says itself.
        """
        hole, origin = self.hole, self.stream[0]
        able = [
            name
            for name, (_, held) in self.ahead.items()
            if held <= self.position
            and (name == origin or hole.fruitless[name] < WANT_FRUITLESS_MAX)
        ]
        source = hole.source
        if (
            self.mine is not None
            and self.mine.waiting
            and source in self._peers
            and self._peers[source].established
            and source not in self.ahead
            and hole.fruitless[source] < WANT_FRUITLESS_MAX
        ):
            able.append(source)
        return able

    def last_hopes(self) -> list[str]:
        """Whom to ask where nobody claims to hold it.

        Of a stream of which nothing has come, only those who say that they went past what they do not hold.
        """
        if self.mine is not None:
            return [name for name, peer in self._peers.items() if peer.established]
        return [name for name, (_, held) in self.ahead.items() if held > self.position]

    def choose(self) -> str | None:
        """Whom to ask: not the one asked last, if there is another that can help."""
        able = self.able() or self.last_hopes()
        if not able:
            return None
        able.sort()
        asked_of = self.hole.asked_of
        after_last = [name for name in able if asked_of and name > asked_of]
        return (after_last or able)[0]
