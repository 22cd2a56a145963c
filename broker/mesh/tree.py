"""Who gets a bundle at once and who is only told of it: one spreading tree per origin.

Theory of operation (Plumtree, Leitao, Pereira and Rodrigues 2007; sets per origin as in riak_core). For each origin a
neighbour is eager, and gets the origin's bundles as they come, or lazy, and gets announcements. All are eager at
first. Whoever brings a bundle first becomes eager; whoever pushes a copy becomes lazy and is told PRUNE, so that it
holds us lazy too. An announcement of something that does not come within three round trips means that the tree is
broken: GRAFT makes the announcer eager again, and kept bundles are asked for besides. When the neighbour that an
origin's bundles came from goes down, all others are grafted at once: the copies that follow prune what is too much.

Three things never move a tree: urgent lanes, which are flooded over every link; bundles that were resent on request;
and neighbours that do not read. What was resent is announced on and not pushed on, so that after a cut each device
fetches its past from one neighbour, once.

Fresh bundles are announced too, without being resent: an origin that only sends heartbeats would otherwise seem dead
when its tree breaks. Announcements wait ANNOUNCE_MS for company, and go only to those who have not said meanwhile
that they have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.mesh.bundle import INTEGER_MAX, PRIORITIES, START, is_device, is_kept
from broker.mesh.control import Have, Shape
from broker.mesh.frame import SERVED, FrameInvalid
from broker.mesh.limits import (
    ANNOUNCE_ENTRIES_MAX,
    ANNOUNCE_MS,
    GRAFT_AGAIN_MS,
    GRAFT_MS,
    INCARNATION_KNOWN_MAX,
    MS,
    OPTIMISE_HOPS,
    SHAPE_ORIGINS_MAX,
    STREAMS_MAX,
    WORK_SHAPE,
)

if TYPE_CHECKING:
    from broker.mesh.bundle import Header, Position, Stream
    from broker.mesh.log import Stored
    from broker.mesh.peer import Peer
    from broker.mesh.state import State

__all__ = ["Tree"]

_URGENT: Final = 1
_NOBODY: Final[frozenset[str]] = frozenset()


class _Missing:
    """A fresh stream of which a neighbour has newer bundles than have come here."""

    __slots__ = ("announcers", "due_ns", "position")

    def __init__(self, position: Position, due_ns: int) -> None:
        self.position = position
        self.due_ns = due_ns
        self.announcers: list[str] = []


class Tree:
    """The spreading trees of all origins, as one device sees them."""

    __slots__ = ("_lazy", "_missing", "_paths", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._lazy: dict[str, set[str]] = {}
        """By origin: the neighbours that get announcements only."""
        self._paths: dict[str, tuple[str, int]] = {}
        """By origin: who pushed its last bundle here first, and over how many links it had come."""
        self._missing: dict[Stream, _Missing] = {}

    # Bundles.

    def forward(self, stored: Stored, now_ns: int, but: str | None = None) -> None:
        """Queue a bundle, or an announcement of it, for every neighbour that has introduced itself, but one."""
        header, hops = stored.header, stored.hops
        flooded = header.lane >> 1 == _URGENT
        lazy = _NOBODY if flooded else self._lazy.get(header.origin, _NOBODY)
        resent = hops == SERVED
        for name, peer in self._state.peers.items():
            if name == but or peer.hello is None:
                continue
            if not (resent or peer.suspended or name in lazy):
                peer.outbox.add(stored)
            elif is_kept(header.lane) or not flooded:
                delay_ms = 0 if resent else self._announce_ms(name)
                peer.announce(header.stream, hops, now_ns + delay_ms * MS)

    def _announce_ms(self, peer: str) -> int:
        """How long to wait for company. The smaller id speaks first, so that the other need not any more."""
        return ANNOUNCE_MS if self._state.device < peer else ANNOUNCE_MS * 3 // 2

    def first(self, peer: str, stored: Stored) -> None:
        """A bundle came for the first time, from this neighbour."""
        header, hops = stored.header, stored.hops
        if hops == SERVED:
            return
        self._state.routes.first(header.origin, peer)
        if header.lane >> 1 == _URGENT:
            return
        self._paths[header.origin] = (peer, hops)
        self._make_eager(header.origin, peer)

    def copy(self, peer: str, header: Header) -> None:
        """A neighbour pushed what was here already.

        If this was pushed to it as well, it sees a copy too, and draws the same conclusion without a word.
        """
        if header.lane >> 1 != _URGENT:
            was_lazy = peer in self._lazy.get(header.origin, _NOBODY)
            self._make_lazy(header.origin, self._state.peers[peer], tell=was_lazy)

    def _make_eager(self, origin: str, peer: str) -> None:
        lazy = self._lazy.get(origin)
        if lazy is not None:
            lazy.discard(peer)
            if not lazy:
                del self._lazy[origin]

    def _make_lazy(self, origin: str, peer: Peer, *, tell: bool) -> None:
        self._lazy.setdefault(origin, set()).add(peer.name)
        if tell:
            self._state.counters["prunes"] += 1
            peer.reshape(origin, eager=False)

    def graft(self, origin: str, peer: Peer) -> None:
        """Have a neighbour push the origin's bundles again."""
        self._state.counters["grafts"] += 1
        self._make_eager(origin, peer.name)
        peer.reshape(origin, eager=True)

    # Neighbours.

    def forget_peer(self, name: str) -> None:
        """A link went down: what came through it is to come from all others, until copies show from whom."""
        for origin, lazy in list(self._lazy.items()):
            lazy.discard(name)
            if not lazy:
                del self._lazy[origin]
        orphans = [origin for origin, path in self._paths.items() if path[0] == name]
        for origin in orphans:
            del self._paths[origin]
            for peer in self._state.peers.values():
                if peer.hello is not None and peer.name != origin:
                    self.graft(origin, peer)

    def hear_shape(self, peer: Peer, shape: Shape, now_ns: int) -> None:
        """A neighbour grafts and prunes.

        Raises:
            FrameInvalid: It does so without end.
        """
        count = len(shape.grafts) + len(shape.prunes)
        peer.work.charge(WORK_SHAPE * count, "grafts and prunes", now_ns)
        for origin in shape.grafts:
            self._make_eager(origin, peer.name)
        for origin in shape.prunes:
            if self._state.knows(origin):
                self._make_lazy(origin, peer, tell=False)

    # Announcements.

    def speak(self, peer: Peer, now_ns: int) -> None:
        """Queue what is due: grafts and prunes, and what has come since this neighbour was last told of it."""
        shape = list(peer.shape_due.items())
        peer.shape_due.clear()
        for at in range(0, len(shape), SHAPE_ORIGINS_MAX):
            part = shape[at : at + SHAPE_ORIGINS_MAX]
            peer.say(
                Shape([o for o, eager in part if eager], [o for o, eager in part if not eager])
            )
        peer.ring(now_ns)
        if peer.announces:
            self._announce(peer)

    def _announce(self, peer: Peer) -> None:
        """Leave out what the neighbour has said of itself that it has."""
        rows = []
        for stream, hops in peer.take_announcements().items():
            position = self._position(stream)
            if position > peer.progress.position(stream):
                rows.append((*stream, *position, hops))
        self._state.counters["announced"] += len(rows)
        for at in range(0, len(rows), ANNOUNCE_ENTRIES_MAX):
            peer.say(Have(rows[at : at + ANNOUNCE_ENTRIES_MAX]))

    def hear(self, peer: Peer, have: Have, now_ns: int) -> None:
        """Take in what a neighbour announces.

        Raises:
            FrameInvalid: It announces what cannot be.
        """
        state = self._state
        for origin, lane, incarnation, sequence, hops in have.entries:
            if (
                not is_device(origin)
                or not 0 <= lane < PRIORITIES * 2
                or not 0 < incarnation <= 2 * INCARNATION_KNOWN_MAX
                or not 0 < sequence < INTEGER_MAX
                or not 0 <= hops <= SERVED
            ):
                raise FrameInvalid("announcement of an impossible bundle")
        for origin, lane, incarnation, sequence, hops in have.entries:
            stream, position = (origin, lane), (incarnation, sequence)
            if not state.has_room(stream):
                continue
            peer.progress.note(stream, position)
            state.routes.copy(origin, peer.name)
            if position <= self._position(stream):
                self._optimise(peer, origin, hops)
            elif is_kept(lane):
                state.repair.note_announced(peer, stream, now_ns, resent=hops == SERVED)
            elif origin != state.device:
                self._note_missing(peer, stream, position, now_ns)

    def _note_missing(self, peer: Peer, stream: Stream, position: Position, now_ns: int) -> None:
        """A fresh bundle was announced that has not come; beyond the bound the next one will do."""
        missing = self._missing.get(stream)
        if missing is None:
            if len(self._missing) >= STREAMS_MAX:
                return
            due_ns = now_ns + max(GRAFT_MS * MS, 3 * (peer.rtt_ns or 0))
            missing = self._missing[stream] = _Missing(position, due_ns)
        missing.position = max(missing.position, position)
        if peer.name not in missing.announcers:
            missing.announcers.append(peer.name)

    def _position(self, stream: Stream) -> Position:
        """How far a stream has come here: passed when kept, the newest when fresh."""
        if is_kept(stream[1]):
            kept = self._state.kept.get(stream)
            return kept.position if kept is not None else START
        if stream[0] == self._state.device:
            return self._state.origin.last(stream[1])
        fresh = self._state.fresh.get(stream)
        return fresh.position if fresh is not None else START

    def _optimise(self, peer: Peer, origin: str, hops: int) -> None:
        """Take the shorter path when a lazy neighbour has had the same thing over far fewer links."""
        path = self._paths.get(origin)
        if path is None or hops + OPTIMISE_HOPS > path[1] or path[0] == peer.name:
            return
        parent = self._state.peers.get(path[0])
        self._paths[origin] = (peer.name, hops + 1)
        self.graft(origin, peer)
        if parent is not None:
            self._make_lazy(origin, parent, tell=True)
        self._state.counters["optimised"] += 1

    # Time.

    def next_ns(self) -> int | None:
        """When `handle_timer` wants to be called."""
        if not self._missing:
            return None
        return min(missing.due_ns for missing in self._missing.values())

    def handle_timer(self, now_ns: int) -> None:
        """Graft where fresh bundles were announced and have not come."""
        for stream in [s for s, missing in self._missing.items() if missing.due_ns <= now_ns]:
            missing = self._missing[stream]
            names = [name for name in missing.announcers if name in self._state.peers]
            if self._position(stream) >= missing.position or not names:
                del self._missing[stream]
                continue
            peer = self._state.peers[names[0]]
            missing.announcers = names[1:]
            missing.due_ns = now_ns + max(GRAFT_AGAIN_MS * MS, peer.rtt_ns or 0)
            self.graft(stream[0], peer)
