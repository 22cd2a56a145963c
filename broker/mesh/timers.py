"""What time alone makes a mesh do, and when the next of it is due.

Decides the order: neighbours first (silence, pings, stalls, announcements, credit), then digests, holes, retained maps
and unicast, and once in TICK_MS what nobody waits for. Each part knows when something of its own is due; here the
earliest is found, since a driver has one timer.

Assumes that `handle` is called soon after `next_ns`; later costs patience, not promises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.mesh import frame
from broker.mesh.limits import DIGEST_MS, MS, PRESSED_BYTES, SILENCE_MS, TICK_MS
from broker.mesh.pace import Pace

if TYPE_CHECKING:
    from broker.mesh.dialogue import Dialogue
    from broker.mesh.intake import Intake
    from broker.mesh.peer import Peer
    from broker.mesh.reconcile import Reconciler
    from broker.mesh.state import State
    from broker.mesh.tree import Tree
    from broker.mesh.unicast import Unicast

__all__ = ["Timers"]


class Timers:
    """Of one mesh."""

    __slots__ = (
        "_dialogue",
        "_intake",
        "_next_tick_ns",
        "_pace",
        "_reconciler",
        "_state",
        "_tree",
        "_unicast",
        "next_digest_ns",
    )

    def __init__(
        self,
        state: State,
        intake: Intake,
        dialogue: Dialogue,
        reconciler: Reconciler,
        unicast: Unicast,
        tree: Tree,
        now_ns: int,
    ) -> None:
        self._state = state
        self._intake = intake
        self._dialogue = dialogue
        self._reconciler = reconciler
        self._unicast = unicast
        self._tree = tree
        self._pace = Pace()
        self.next_digest_ns = now_ns + DIGEST_MS * MS
        self._next_tick_ns = now_ns + TICK_MS * MS

    def next_ns(self) -> int:
        """When `handle` wants to be called next."""
        state = self._state
        next_ns = min(self.next_digest_ns, self._next_tick_ns)
        room_bytes = PRESSED_BYTES - state.backlog_bytes
        for peer in state.peers.values():
            next_ns = min(next_ns, peer.next_ns(room_bytes))
        for at_ns in (state.repair.next_ns(), self._tree.next_ns(), state.flights.next_ns()):
            if at_ns is not None and at_ns < next_ns:
                next_ns = at_ns
        return next_ns

    def handle(self, now_ns: int) -> None:
        """Do what is due."""
        state = self._state
        for peer in state.peers.values():
            if now_ns - peer.heard_ns >= SILENCE_MS * MS:
                state.close_link(peer, f"silent for {SILENCE_MS} ms")
            if now_ns >= peer.ping_due_ns:
                peer.ping(now_ns)
                if not peer.established:
                    self._dialogue.say_hello(peer, now_ns)
            if peer.stall_ends_ns is not None and now_ns >= peer.stall_ends_ns:
                peer.suspend()
                state.counters["suspended"] += 1
                self._unicast.lost_by(peer.name, now_ns)
            peer.ring(now_ns)
            if peer.resync_ns is not None and now_ns >= peer.resync_ns:
                peer.resync(now_ns)
            self._grant(peer)
        if now_ns >= self.next_digest_ns:
            self._compare(now_ns)
        self._repair(now_ns)
        self._reconciler.due(now_ns)
        self._unicast.due(now_ns)
        if now_ns >= self._next_tick_ns:
            self._next_tick_ns = now_ns + TICK_MS * MS
            self._tick(now_ns)

    def _grant(self, link: Peer) -> None:
        """Let a neighbour send more, as far as none that still reads is behind."""
        room_bytes = PRESSED_BYTES - self._state.backlog_bytes
        if link.credit.due(room_bytes):
            link.credit.grant(room_bytes)
            link.say_record(frame.encode_credit(link.credit.granted_bytes))

    def _compare(self, now_ns: int) -> None:
        """Tell some neighbours where this device stands."""
        state = self._state
        self._pace.adapt(state.repair.found, state.backlog_bytes)
        self.next_digest_ns = now_ns + self._pace.interval_ms * MS
        names = sorted(name for name, peer in state.peers.items() if peer.established)
        for _ in range(min(self._pace.links, len(names))):
            name = state.choice.choice(names)
            names.remove(name)
            state.peers[name].digest_due = True

    def _repair(self, now_ns: int) -> None:
        state = self._state
        repair_ns, tree_ns = state.repair.next_ns(), self._tree.next_ns()
        if tree_ns is not None and now_ns >= tree_ns:
            self._tree.handle_timer(now_ns)
        if repair_ns is None or now_ns < repair_ns:
            return
        todo = state.repair.due(now_ns)
        for name, rows in todo.ranges.items():
            for want in state.repair.pages(rows):
                state.peers[name].say(want)
        for origin, name in todo.grafts:
            self._tree.graft(origin, state.peers[name])
        for stream, position in todo.lost:
            self._intake.give_up(stream, position, now_ns)

    def _tick(self, now_ns: int) -> None:
        state = self._state
        state.log.expire(now_ns)
        if state.join_until_ns is not None and now_ns >= state.join_until_ns:
            state.joining = False
        if state.rebuild_until_ns is not None and now_ns >= state.rebuild_until_ns:
            state.rebuilding, state.rebuild_until_ns = False, None
            for stream in state.kept.values():
                stream.end_rebuild()
        state.age(now_ns)
