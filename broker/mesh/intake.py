"""What a bundle does when it arrives: told from a copy, logged, passed on, and delivered in its turn.

A kept bundle is decoded once it is known to be news and before it counts as heard: a relay that damaged the body
costs a frame, not the message, since the next copy is still welcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.mesh import frame
from broker.mesh.bundle import FLAG_RETAINED, BundleInvalid, Header, Message, decode_body, is_kept
from broker.mesh.events import Gap, OwnBundle
from broker.mesh.frame import NEVER, SERVED, FrameInvalid
from broker.mesh.limits import (
    FRESH_TOPICS_MAX,
    MS,
    WAITING_BYTES_MAX,
)
from broker.mesh.log import Stored
from broker.mesh.retained import Entry
from broker.mesh.streams import FreshStream, KeptStream, Verdict

if TYPE_CHECKING:
    from broker.mesh.bundle import Position, Stream
    from broker.mesh.guard import Guard
    from broker.mesh.state import State
    from broker.mesh.tree import Tree

__all__ = ["Intake"]


class Intake:
    """Bundles in."""

    __slots__ = ("_guard", "_state", "_tree")

    def __init__(self, state: State, tree: Tree, guard: Guard) -> None:
        self._state = state
        self._tree = tree
        self._guard = guard

    def bundle(self, peer: str, data: bytes, now_ns: int) -> None:
        """Take a bundle record from a neighbour.

        Raises:
            FrameInvalid: It is not a bundle, its body is not what its header says, or its tag is not its origin's.
        """
        state = self._state
        header, head, body, remaining_ms, hops = frame.decode_bundle(data)
        kept = is_kept(header.lane)
        if not state.has_room(header.stream):
            state.counters["streams_refused"] += 1
            return
        guard = self._guard
        if header.origin == peer and guard.holds_back(peer, header.clock, now_ns):
            return
        if hops < SERVED:
            hops = min(hops + 1, SERVED - 1)
        else:
            state.peers[peer].served_ns = now_ns
        if self._known(peer, header, hops) if kept else self._seen(peer, header, hops):
            return
        if not guard.is_genuine(peer, frame.BUNDLE, data, header, head, body, now_ns):
            return
        if guard.is_over(header, remaining_ms, now_ns):
            remaining_ms, body = 0, b""
        expires_ns = None if remaining_ms == NEVER else now_ns + remaining_ms * MS
        stored = Stored(header, head, body, expires_ns, hops)
        if kept:
            self._kept(peer, stored, remaining_ms, now_ns)
        else:
            self._fresh(peer, stored, remaining_ms, now_ns)

    def own(self, stored: Stored, messages: list[Message], now_ns: int) -> None:
        """Take a bundle that this device has just sealed: it is news everywhere, here too."""
        state, header = self._state, stored.header
        if is_kept(header.lane):
            stream = state.kept.get(header.stream)
            if stream is None:
                stream = state.kept[header.stream] = KeptStream()
            stream.position = header.position
            state.mark_passed(header.stream)
            state.log_add(stored)
            state.changes.own.append(
                OwnBundle(header.lane, header.position, stored.head, stored.body)
            )
        self._tree.forward(stored, now_ns)
        state.note_proofs(stored, messages)
        state.deliver(state.device, header.incarnation, messages)

    def _fresh(self, peer: str, stored: Stored, remaining_ms: int, now_ns: int) -> None:
        state, header = self._state, stored.header
        stream = state.fresh.get(header.stream)
        if stream is None:
            if self._guard.is_stale(header, now_ns):
                return
            stream = state.fresh[header.stream] = FreshStream()
        stream.accept(header.incarnation, header.sequence)
        state.hear_of(header.origin, header.incarnation)
        if not remaining_ms:
            state.counters["expired"] += header.messages
            return
        messages = self._decode(peer, stored, now_ns)
        state.clock.observe(header.clock, now_ns)
        self._tree.first(peer, stored)
        self._tree.forward(stored, now_ns, but=peer)
        self.hand_on(stored, messages, remaining_ms)

    def _seen(self, peer: str, header: Header, hops: int) -> bool:
        """Note that a neighbour has a fresh bundle. True when it is here already, or comes too late."""
        state = self._state
        if header.origin != state.device:
            state.peers[peer].progress.note(header.stream, header.position)
            stream = state.fresh.get(header.stream)
            if stream is None or not stream.knows(header.incarnation, header.sequence):
                return False
        state.counters["duplicates"] += 1
        self._copy(peer, header, hops)
        return True

    def _known(self, peer: str, header: Header, hops: int) -> bool:
        """Note that a neighbour has a kept bundle. True when it is here already."""
        state, position = self._state, header.position
        state.peers[peer].progress.note_sent(header.stream, header.before, position)
        stream = state.kept.get(header.stream)
        if stream is None or not stream.knows(position):
            return False
        state.counters["duplicates"] += 1
        held = state.log.get(header.stream, position)
        if held is not None and held.hops != SERVED:
            self._copy(peer, header, hops)
        return True

    def _kept(self, peer: str, stored: Stored, remaining_ms: int, now_ns: int) -> None:
        state, header = self._state, stored.header
        stream = state.kept.get(header.stream)
        if stream is None:
            stream = state.kept[header.stream] = KeptStream()
        if state.waiting_bytes + stored.weight_bytes > WAITING_BYTES_MAX and not stream.follows(
            header.position
        ):
            state.counters["waiting_full"] += 1
            return
        messages = self._decode(peer, stored, now_ns) if remaining_ms else None
        if stream.follows(header.position):
            # What must wait is decoded again then: it may be far larger than it travels.
            stored.messages = messages
        before = stream.waiting_bytes
        verdict = stream.accept(stored)
        if verdict is Verdict.NEW:
            state.hear_of(header.origin, header.incarnation)
            state.clock.observe(header.clock, now_ns)
            if stored.hops == SERVED:
                state.repair.note_served(header.stream, header.position, now_ns)
            state.log_add(stored)
            self._tree.first(peer, stored)
            self._tree.forward(stored, now_ns, but=peer)
            self.advance(header.stream, now_ns)
            if stream.waiting:
                state.repair.note_waiting(header.stream, peer, now_ns)
        elif verdict is Verdict.REBUILD:
            state.log_add(stored)
            if state.log.lower_floor(header.stream):
                state.vector.touch(header.stream)
                for other in state.peers.values():
                    other.digest_due = True  # they may be waiting for a holder
            self._pass(stored, now_ns, rebuild=True)
        else:
            state.counters["waiting_full"] += 1
        state.waiting_bytes += stream.waiting_bytes - before

    def _decode(self, peer: str, stored: Stored, now_ns: int) -> list[Message]:
        try:
            messages = decode_body(stored.header, stored.body)
        except BundleInvalid as error:
            raise FrameInvalid(str(error)) from None
        return self._guard.admit(peer, stored.header, messages, now_ns)

    def _copy(self, peer: str, header: Header, hops: int) -> None:
        """A neighbour brought what was here already: it leads to the origin too, and need not push."""
        if hops != SERVED:
            self._state.routes.copy(header.origin, peer)
            self._tree.copy(peer, header)

    def advance(self, name: Stream, now_ns: int) -> None:
        """Deliver what now follows in a stream."""
        stream = self._state.kept[name]
        passed = stream.advance()
        if passed:
            self._state.mark_passed(name)
            for stored in passed:
                self._pass(stored, now_ns)

    def give_up(self, name: Stream, to: Position, now_ns: int) -> None:
        """Declare the rest of a stream up to `to` lost, and go on from there."""
        state = self._state
        stream = state.kept.get(name)
        if stream is None:
            if not state.has_room(name):
                state.repair.forget(name)
                return
            stream = state.kept[name] = KeptStream()
        after, before = stream.position, stream.waiting_bytes
        to = stream.jump(to)
        state.hear_of(name[0], to[0])
        state.events.append(Gap(name[0], name[1], after, to))
        state.counters["gaps"] += 1
        state.log.held_after[name] = max(to, state.log.held_after.get(name, to))
        state.mark_passed(name)
        self.advance(name, now_ns)
        state.waiting_bytes += stream.waiting_bytes - before
        for peer in state.peers.values():
            peer.digest_due = True  # what waited behind the hole is to be had from here now

    def _pass(self, stored: Stored, now_ns: int, *, rebuild: bool = False) -> None:
        messages, stored.messages = stored.messages, None
        remaining_ms = stored.remaining_ms(now_ns)
        if not stored.body or not remaining_ms:
            self._state.counters["expired"] += stored.header.messages
            return
        if messages is None:
            messages = self._guard.allowed(stored.header, decode_body(stored.header, stored.body))
        rebuild = rebuild or self._guard.is_memory(stored.header)
        self.hand_on(stored, messages, remaining_ms, rebuild=rebuild)

    def hand_on(
        self, stored: Stored, messages: list[Message], remaining_ms: int, *, rebuild: bool = False
    ) -> None:
        """Deliver what of these messages is neither expired nor superseded."""
        state, header = self._state, stored.header
        origin, wanted = header.origin, messages
        # One pass per question, and none where it cannot arise: this is the hot path of every device.
        age_ms = header.lifetime_ms - remaining_ms if header.lifetime_ms else 0
        if age_ms > 0:
            wanted = [m for m in messages if not 0 < m.lifetime_ms <= age_ms]
            state.counters["expired"] += len(messages) - len(wanted)
        fresh = not is_kept(header.lane)
        if fresh or any(flags & FLAG_RETAINED for flags in {m.flags for m in wanted}):
            wanted = [
                m
                for m in wanted
                if (
                    self.retain(origin, m)
                    if m.flags & FLAG_RETAINED
                    else not fresh or self._is_newest(origin, m)
                )
            ]
            state.note_proofs(stored, messages)
        state.deliver(origin, header.incarnation, wanted, rebuild=rebuild)

    def retain(self, origin: str, message: Message, *, given: bool = False) -> bool:
        """Offer a retained message to the map. False: superseded, it reaches nobody.

        Below the floor nobody can tell whether what is not here was deleted; it is taken only from a neighbour that
        knows this device's floor (`given`).
        """
        state = self._state
        if (
            not given
            and message.clock < state.retained.floor
            and message.topic not in state.retained
        ):
            state.counters["retained_too_old"] += 1
            return False
        entry = Entry(message.rank, message.clock, origin, message.payload, message.qos)
        taken = state.retained.merge(message.topic, entry)
        if taken:
            state.changes.retained[message.topic] = entry
        else:
            state.counters["superseded"] += 1
        for topic in state.retained.take_evicted():
            state.counters["retained_evicted"] += 1
            state.changes.retained[topic] = None
        return taken

    def note_own(self, message: Message) -> None:
        """An own fresh message: nothing older on its topic is delivered after it."""
        self._is_newest(self._state.device, message)

    def _is_newest(self, origin: str, message: Message) -> bool:
        newest = self._state.newest
        stamp = (message.clock, origin)
        if newest.get(message.topic, (0, "")) >= stamp:
            self._state.counters["superseded"] += 1
            return False
        newest[message.topic] = stamp
        newest.move_to_end(message.topic)
        if len(newest) > FRESH_TOPICS_MAX:
            newest.popitem(last=False)
        return True
