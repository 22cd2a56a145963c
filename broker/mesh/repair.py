"""Who misses what: holes found, asked for, and declared lost.

Theory of operation. Digests and announcements say how far neighbours stand (`progress.py`). A hole is a stream in
which a neighbour stands further than we do, or in which a bundle waits for one before it. It is asked for after a
while (it may be mere reordering, or under way on another link), at once on a new link, each part of it of one
neighbour only, and again of another (`holes.py`) when nothing has come for WANT_RETRY_MS. What no neighbour can fill
is declared lost after GAP_WAIT_MS if the origin is among them, which is then sure, and after GAP_AWAY_MS if it is
not: until then it may come back from behind a cut. Meanwhile all are asked in turn, whatever they claim: one may hold
it behind a hole of its own.

Assumes links deliver in order or go down; what a link loses all the same, the hash brings to light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.mesh.bundle import START
from broker.mesh.control import Want
from broker.mesh.holes import Hole, Search
from broker.mesh.limits import (
    GAP_AWAY_MS,
    GAP_WAIT_MS,
    GRAFT_MS,
    MS,
    STREAMS_MAX,
    WANT_DELAY_MS,
    WANT_HELD_BACK_MS,
    WANT_HOLES_MAX,
    WANT_RANGES_MAX,
    WANT_RETRY_MS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.mesh.bundle import Position, Stream
    from broker.mesh.control import WantRange
    from broker.mesh.peer import Peer
    from broker.mesh.streams import KeptStream

__all__ = ["Due", "Repair"]


class Due(NamedTuple):
    """What is to be done about holes now."""

    ranges: dict[str, list[WantRange]]
    """By neighbour: what to ask of it."""
    lost: list[tuple[Stream, Position]]
    """Streams that must go on at a position, because everything before it is lost."""
    grafts: list[tuple[str, str]]
    """(origin, neighbour): who is to push again."""


class Repair:
    """Finds holes and asks for them."""

    __slots__ = (
        "_holes",
        "_peers",
        "_streams",
        "found",
        "wants",
    )

    def __init__(self, streams: dict[Stream, KeptStream], peers: dict[str, Peer]) -> None:
        self._streams = streams
        self._peers = peers
        self._holes: dict[Stream, Hole] = {}
        self.wants = 0
        self.found = 0
        """Holes that came to light by digests and not by what follows them."""

    def note_waiting(self, stream: Stream, source: str, now_ns: int) -> None:
        """A bundle of the stream came from `source` and could not be passed yet."""
        hole = self._holes.get(stream)
        if hole is None:
            hole = self._holes[stream] = Hole(now_ns + WANT_DELAY_MS * MS)
        hole.source = source

    def note_served(self, stream: Stream, position: Position, now_ns: int) -> None:
        """Something that was asked for has come and was news: there is hope for the rest. Answers come in order."""
        hole = self._holes.get(stream)
        if hole is None:
            return
        hole.hopeless_ns = None
        if position > hole.served_upto:
            hole.served_upto = position
            hole.due_ns = min(hole.due_ns, now_ns + WANT_DELAY_MS * MS)

    def note_behind(
        self, peer: Peer, streams: Iterable[Stream], now_ns: int, *, at_once: bool
    ) -> None:
        """A digest came: look whether the neighbour stands further than we do in these streams."""
        delay_ns = 0 if at_once else max(WANT_DELAY_MS * MS, 3 * (peer.rtt_ns or 0))
        for stream in streams:
            mine = self._streams.get(stream)
            if peer.progress.entries[stream][0] > (mine.position if mine else START):
                self.found += stream not in self._holes and not at_once
                self._note(stream, now_ns + delay_ns, graft=not at_once)

    def note_announced(self, peer: Peer, stream: Stream, now_ns: int, *, resent: bool) -> None:
        """A neighbour announces more than is here. What was resent to it, it will not push: ask at once."""
        delay_ns = 0 if resent else max(GRAFT_MS * MS, 3 * (peer.rtt_ns or 0))
        self._note(stream, now_ns + delay_ns, graft=not resent)

    def _note(self, stream: Stream, due_ns: int, *, graft: bool) -> None:
        hole = self._holes.get(stream)
        if hole is None:
            if stream not in self._streams and len(self._holes) >= STREAMS_MAX:
                return  # claims of streams that nobody can follow; a digest names them again
            hole = self._holes[stream] = Hole(due_ns)
        hole.due_ns = min(hole.due_ns, due_ns)
        hole.graft = hole.graft or graft

    def ahead_in(self, peer: Peer) -> list[Stream]:
        """The streams in which a neighbour's digests put it further than this device: each is a hole."""
        return [
            stream
            for stream in self._holes
            if (known := peer.progress.entries.get(stream)) is not None
            and known[0] > (self._streams[stream].position if stream in self._streams else START)
        ]

    def forget_peer(self, name: str) -> None:
        """A link went down: what was asked of it must be asked of another."""
        for hole in self._holes.values():
            if hole.asked_of == name:
                hole.asked_of, hole.due_ns = "", 0
            del hole.fruitless[name]

    def forget(self, stream: Stream) -> None:
        """There is no room to follow a stream."""
        self._holes.pop(stream, None)

    def next_ns(self) -> int | None:
        """When `due` wants to be called."""
        if not self._holes or not self._peers:
            return None
        return min(hole.due_ns for hole in self._holes.values())

    def due(self, now_ns: int) -> Due:
        """What is to be done now about the holes whose time has come."""
        todo = Due({}, [], [])
        for stream in [s for s, hole in self._holes.items() if hole.due_ns <= now_ns]:
            hole, mine = self._holes[stream], self._streams.get(stream)
            search = Search(stream, hole, mine, self._peers)
            if not search.ahead and not (mine and mine.waiting):
                if all(peer.established for peer in self._peers.values()):
                    del self._holes[stream]
                hole.due_ns = now_ns + WANT_RETRY_MS * MS  # a link that comes back may know of it
                continue
            loss = _loss(search, now_ns)
            if loss is not None:
                todo.lost.append((stream, loss))
                hole.due_ns, hole.hopeless_ns = now_ns, None
                hole.searched_upto = max(hole.searched_upto, hole.asked_upto)
                continue
            self._ask(search, now_ns, todo)
        return todo

    def pages(self, rows: list[WantRange]) -> list[Want]:
        """Ranges as records."""
        self.wants += len(rows)
        return [
            Want(rows[at : at + WANT_RANGES_MAX]) for at in range(0, len(rows), WANT_RANGES_MAX)
        ]

    def _ask(self, search: Search, now_ns: int, todo: Due) -> None:
        """Ask for what was not asked for yet; for all of it again, of another, when nothing has come."""
        stream, hole, mine = search.stream, search.hole, search.mine
        after = position = search.position
        if position != hole.position:
            hole.position = position
            hole.fruitless.clear()
        overtaken, hole.served_upto = hole.served_upto, START
        peer = self._peers.get(hole.asked_of)
        if peer is not None:
            last_ns = max(hole.asked_ns, peer.served_ns)
            if now_ns - last_ns < _patience_ns(peer, stream):
                after = max(position, hole.asked_upto)
            else:
                # Who never claimed to hold it, and was asked because nobody did, breaks no word.
                begged = hole.hopeless_ns is not None
                excused = begged or (peer.name == stream[0] and peer.held_back)
                hole.fruitless[peer.name] += peer.served_ns < hole.asked_ns and not excused
                peer = None
        if peer is None:
            name = search.choose()
            if name is None:
                hole.due_ns = now_ns + GAP_WAIT_MS * MS
                return
            peer = self._peers[name]
            hole.asked_of, hole.asked_ns = name, now_ns
        upto = search.ahead[peer.name][0] if peer.name in search.ahead else position
        if hole.hopeless_ns is not None:
            upto = max([upto, *(stands for stands, _ in search.ahead.values())])
        holes = mine.holes(upto, WANT_HOLES_MAX) if mine else [(START, upto)]
        rows = [(max(a, after), b) for a, b in holes if b > after]
        if after > position:
            rows += [(a, min(b, overtaken)) for a, b in holes if a < overtaken]
        if rows:
            ranges = todo.ranges.setdefault(peer.name, [])
            ranges += [(*stream, *a, *b) for a, b in rows]
            hole.asked_upto = max(after, *(b for _, b in rows))
            hole.asked_ns = now_ns
            if hole.graft:
                hole.graft = False
                todo.grafts.append((stream[0], peer.name))
        # Streams of which nothing has come may be claims that lie; they are looked at seldom.
        seldom = mine is None and hole.hopeless_ns is not None
        hole.due_ns = now_ns + (GAP_WAIT_MS * MS if seldom else _patience_ns(peer, stream))


def _patience_ns(peer: Peer, stream: Stream) -> int:
    """How long an answer may take."""
    if peer.name == stream[0] and peer.held_back:
        return WANT_HELD_BACK_MS * MS
    return max(WANT_RETRY_MS * MS, 4 * (peer.rtt_ns or 0))


def _loss(search: Search, now_ns: int) -> Position | None:
    """Where to go on when everything before is lost, or None."""
    hole, position, ahead = search.hole, search.position, search.ahead
    if search.able():
        hole.hopeless_ns = None
        return None
    if hole.hopeless_ns is None:
        hole.hopeless_ns = now_ns
    # A neighbour that gives up a hole before this one at the same time needs some, too, to fill this one.
    sure = search.stream[0] in ahead or position < hole.searched_upto
    patience_ms = GAP_WAIT_MS if sure else GAP_AWAY_MS
    if now_ns - hole.hopeless_ns < patience_ms * MS:
        return None
    hopes = search.last_hopes()
    if not (hopes or ahead):
        return None  # links are coming back
    if hole.position != position or not hole.fruitless.keys() >= set(hopes):
        return None  # answers take long, or neighbours are many: not all have been asked
    floors = [held for _, held in ahead.values()]
    first = search.mine.first_waiting() if search.mine else None
    if first is not None:
        floors.append(first.header.before)
    loss = min((floor for floor in floors if floor > position), default=None)
    if loss is None:
        # All who are ahead claim to hold it. They lie, or the link loses much: ask again, now and then.
        hole.fruitless.clear()
        hole.hopeless_ns = None
    return loss
