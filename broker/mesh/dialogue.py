"""What neighbours say of themselves and ask of each other: hello, pings, digests, requests.

Nothing but a hello is listened to before the hello: it carries the protocol version, the highest incarnation that the
neighbour knows of this device (a lost disk shows here), and its clock (a device that woke in 1970 takes it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.mesh import frame
from broker.mesh.bundle import INTEGER_MAX, PRIORITIES, START, is_device, is_kept
from broker.mesh.control import (
    Ask,
    Control,
    Digest,
    Entries,
    Have,
    Hello,
    Ping,
    Proofs,
    Ranges,
    Shape,
    Want,
    Who,
    decode_control,
)
from broker.mesh.events import OwnBundle
from broker.mesh.frame import FrameInvalid
from broker.mesh.limits import (
    CLOCK_MAX,
    INCARNATION_KNOWN_MAX,
    ORIGIN_BYTES_MAX,
    OWN_KEPT_BUNDLES,
    OWN_KEPT_BYTES,
    STREAMS_MAX,
    WORK_QUESTION,
    WORK_SERVED,
)

if TYPE_CHECKING:
    from broker.mesh.bundle import Position, Stream
    from broker.mesh.control import WantRange
    from broker.mesh.guard import Guard
    from broker.mesh.intake import Intake
    from broker.mesh.peer import Peer
    from broker.mesh.reconcile import Reconciler
    from broker.mesh.state import State
    from broker.mesh.tree import Tree

__all__ = ["Dialogue"]

_CONTROLS: Final = (
    frame.PING,
    frame.DIGEST,
    frame.WANT,
    frame.RANGES,
    frame.ENTRIES,
    frame.ASK,
    frame.HAVE,
    frame.SHAPE,
    frame.WHO,
    frame.PROOFS,
)


class Dialogue:
    """Control records in."""

    __slots__ = ("_guard", "_intake", "_reconciler", "_state", "_tree")

    def __init__(
        self, state: State, intake: Intake, tree: Tree, guard: Guard, reconciler: Reconciler
    ) -> None:
        self._guard = guard
        self._state = state
        self._intake = intake
        self._tree = tree
        self._reconciler = reconciler

    def hear(self, peer: Peer, kind: int, body: bytes, now_ns: int) -> None:
        """Take a control record.

        Raises:
            FrameInvalid: It is not what it claims.
        """
        if kind == frame.HELLO:
            self._hello(peer, body, now_ns)
        elif kind == frame.PONG:
            peer.pinged(int.from_bytes(body[:8], "big"), now_ns)
        elif kind == frame.RESYNC:
            steps = WORK_QUESTION + len(self._state.kept)
            peer.work.charge(steps, "requests for whole digests", now_ns)
            peer.progress.tell_again()
            peer.digest_due = True
        elif kind == frame.CREDIT:
            peer.credit.allow(frame.decode_credit(body))
        elif kind in _CONTROLS:
            self._control(peer, decode_control(kind, body), now_ns)

    def _control(self, peer: Peer, control: Control, now_ns: int) -> None:
        match control:
            case Digest():
                self._digest(peer, control, now_ns)
            case Want(ranges=ranges):
                self._serve(peer, ranges, now_ns)
            case Ping():
                peer.work.charge(WORK_QUESTION, "pings", now_ns)
                peer.pong(control)
            case Have():
                self._tree.hear(peer, control, now_ns)
            case Shape():
                self._tree.hear_shape(peer, control, now_ns)
            case Ranges() | Entries() | Proofs() | Ask():
                self._reconciler.hear(peer, control, now_ns)
            case Who():
                self._state.vouching.answer(peer, control, now_ns)
            case Hello():
                raise AssertionError("hellos have a handler of their own")

    def _serve(self, peer: Peer, ranges: list[WantRange], now_ns: int) -> None:
        """Note what a neighbour asks for, as far as the log has it."""
        for origin, lane, *numbers in ranges:
            after, upto = (numbers[0], numbers[1]), (numbers[2], numbers[3])
            found = self._state.log.between((origin, lane), after, upto)
            peer.work.charge(1 + WORK_SERVED * len(found), "requests", now_ns)
            peer.serve([((origin, lane), stored.header.position) for stored in found])

    def say_hello(self, peer: Peer, now_ns: int) -> None:
        """Introduce this device."""
        state = self._state
        peer.say(
            Hello(
                frame.PROTOCOL,
                state.device,
                state.origin.incarnation,
                state.known_incarnation(peer.name),
                state.clock.read(now_ns),
                peer.established,
            )
        )

    def _hello(self, peer: Peer, body: bytes, now_ns: int) -> None:
        hello = decode_control(frame.HELLO, body)
        assert isinstance(hello, Hello)
        state = self._state
        peer.work.charge(WORK_QUESTION, "hellos", now_ns)
        if peer.hello is not None:
            if not hello.heard:
                self.say_hello(peer, now_ns)
            return
        if hello.protocol != frame.PROTOCOL or hello.device != peer.name:
            state.close_link(
                peer,
                f"calls itself {hello.device[:ORIGIN_BYTES_MAX]!r} and speaks protocol "
                f"{hello.protocol}, expected {peer.name!r} and {frame.PROTOCOL}",
            )
            return
        if not 0 <= hello.clock < CLOCK_MAX or not 0 <= hello.known <= INCARNATION_KNOWN_MAX:
            raise FrameInvalid("hello with an impossible clock or incarnation")
        state.clock.observe(hello.clock, now_ns)
        if state.joining:
            self._guard.joined(now_ns)
        mine = state.origin.incarnation
        if hello.known > mine or (hello.known == mine and not state.spoken):
            self._raise_incarnation(hello.known)
        state.established(now_ns)
        state.routes.note_neighbour(peer.name)
        peer.hello = hello
        peer.digest_due = True
        peer.expect_digest(now_ns)
        # A newcomer takes from whole digests what is memory to it.
        if not state.joining:
            ahead = state.acquaintances.recall(peer)
            state.repair.note_behind(peer, ahead, now_ns, at_once=True)
        if not hello.heard:
            self.say_hello(peer, now_ns)

    def _raise_incarnation(self, known: int) -> None:
        """Go above an incarnation that somebody knows from before this device lost its memory."""
        state = self._state
        state.counters["incarnation_raised"] += 1
        before = state.origin.incarnation
        lanes = [stream for stream in state.kept if stream[0] == state.device]
        unheard = {
            stream: state.log.between(stream, self._heard_by_neighbours(stream), (before + 1, 0))
            for stream in lanes
        }
        renumbered = state.origin.renumber(
            known + 1, [s for rows in unheard.values() for s in rows]
        )
        for stream in lanes:
            bundles = [s for s in renumbered if s.header.stream == stream]
            state.log.replace_stream(stream, bundles)
            if bundles:
                state.kept[stream].position = bundles[-1].header.position
                state.mark_passed(stream)
        for peer in state.peers.values():
            peer.outbox.clear()
        state.hear_of(state.device, known + 1)
        state.changes.incarnation = known + 1
        state.changes.own_replaced = True
        state.changes.own = [
            OwnBundle(s.header.lane, s.header.position, s.head, s.body) for s in renumbered
        ]

    def _heard_by_neighbours(self, stream: Stream) -> Position:
        """How far neighbours hold an own stream, within the incarnations that this device remembers."""
        mine = self._state.kept[stream].position
        positions = (
            peer.progress.entries[stream][0]
            for peer in self._state.peers.values()
            if stream in peer.progress.entries
        )
        return max((position for position in positions if position <= mine), default=START)

    def _digest(self, peer: Peer, digest: Digest, now_ns: int) -> None:
        state = self._state
        for origin, lane, passed, sequence, held, held_sequence in digest.entries:
            if not (
                ((origin, lane) in state.kept or _may_be_kept(origin, lane))
                and 0 <= passed <= 2 * INCARNATION_KNOWN_MAX
                and 0 <= held <= 2 * INCARNATION_KNOWN_MAX
                and 0 <= sequence < INTEGER_MAX
                and 0 <= held_sequence < INTEGER_MAX
            ):
                raise FrameInvalid("digest of an impossible stream")
        whole = 0 if digest.more else len(peer.progress.entries) + len(state.kept)
        peer.work.charge(1 + len(digest.entries) + whole, "digests", now_ns)
        adds_up = peer.progress.hear(digest, state.kept, state.stream_names)
        if len(peer.progress.entries) > STREAMS_MAX:
            peer.progress.forget()
            raise FrameInvalid("digest of too many streams")
        named = [(row[0], row[1]) for row in digest.entries]
        for stream in named:
            position = peer.progress.entries[stream][0]
            state.hear_of(stream[0], position[0])
            if stream[0] == state.device:
                self._own_held(stream, peer)
            if state.joining and digest.settled:
                self._join(stream, position, now_ns)
        state.repair.note_behind(peer, named, now_ns, at_once=peer.progress.digests_heard <= 1)
        if digest.more:
            return
        if not adds_up:
            state.counters["digests_resynced"] += 1
            peer.resync(now_ns)
            return
        peer.resync_ns = None
        if state.rebuilding:
            rows = state.rebuild.ranges(peer, now_ns)
            for want in state.repair.pages(rows):
                peer.say(want)
        self._reconciler.hear_digest(peer, digest, now_ns)
        if digest.settled:
            state.joining = False

    def _join(self, stream: Stream, position: Position, now_ns: int) -> None:
        """Take a stream's past, as far as a neighbour has passed it, as memory; news may wait behind it."""
        state = self._state
        mine = state.kept.get(stream)
        if not state.has_room(stream) or (mine is not None and mine.position > START):
            return
        first = mine.first_waiting() if mine is not None else None
        state.settle(stream, position if first is None else min(position, first.header.before))
        if mine is not None:
            settled = state.kept[stream]
            settled.waiting, settled.waiting_bytes = mine.waiting, mine.waiting_bytes
            self._intake.advance(stream, now_ns)
            state.waiting_bytes += settled.waiting_bytes - mine.waiting_bytes

    def _own_held(self, stream: Stream, peer: Peer) -> None:
        """A neighbour says how far it holds one of our own streams.

        Its copy may be in memory only, and it may be alone with it; so the newest stay on this device's disk all the
        same.
        """
        state = self._state
        position = peer.progress.entries[stream][0]
        mine = state.kept.get(stream)
        if position[0] >= state.origin.incarnation and (mine is None or position > mine.position):
            if not peer.raised and position[0] <= INCARNATION_KNOWN_MAX:
                peer.raised = True
                self._raise_incarnation(position[0])
        elif mine is not None:
            tail_after = state.log.tail_after(stream, OWN_KEPT_BYTES, OWN_KEPT_BUNDLES)
            if (upto := min(position, mine.position, tail_after)) > START:
                state.changes.own_held[stream[1]] = upto


def _may_be_kept(origin: str, lane: int) -> bool:
    """Whether there may be a stream of kept bundles with this name."""
    return is_device(origin) and 0 <= lane < PRIORITIES * 2 and is_kept(lane)
