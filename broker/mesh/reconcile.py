"""Reconciling retained maps with a neighbour, where no log reaches: bytes in proportion to what differs.

Theory of operation. Each digest carries a hash over the map. When `exchange.py` finds that a difference will not pass
by itself, the lower of the two device ids leads (a device that joins leads at once); the other says its digest again,
until both agree. Leading is one record: the sixteen fingerprints below everything, or the whole map as a list if it
is short. Whoever hears fingerprints answers, for each range that differs, with narrower fingerprints or with a list;
whoever hears a list answers with the values that are newer or only here, and asks for those that are newer or only
there. No step remembers another: entries may change meanwhile, both may lead at once, and a link may die anywhere.
What is still different then shows in the next digest. A value that was news here goes on to the other neighbours at
once, as a bundle would.

An entry that a neighbour lacks and that is below its floor is not given but challenged: see `horizon.py`.

What a neighbour lacks is judged by the floor that came in the same record, so records that overtake each other do no
harm. A neighbour that lies costs RECONCILE_WORK_MAX steps per window, told and counted beyond. Where values are
believed with a proof only (`Seals.needs_proof`), it can give what their origins have said; others it can make up, in
the name of those that may say them. By claiming to lack them it can delete those that are older than the horizon and
whose origin is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.mesh import frame
from broker.mesh.bundle import (
    FLAG_RETAINED,
    INTEGER_MAX,
    QOS_SHIFT,
    START,
    BundleInvalid,
    Message,
    body_bytes_estimate,
    decode_body,
    decode_header,
    is_device,
    is_private,
    lane_of,
)
from broker.mesh.control import Ask, Entries, Proofs, Ranges, body_of, unpack_sums
from broker.mesh.exchange import owe
from broker.mesh.frame import SERVED, FrameInvalid
from broker.mesh.hashes import HASH_MASK
from broker.mesh.horizon import horizon_of
from broker.mesh.limits import (
    CLOCK_MAX,
    MESSAGE_BYTES_MAX,
    TOPIC_BYTES_MAX,
    WORK_PROOF,
)
from broker.mesh.log import Stored
from broker.mesh.ranges import DIGITS, WIDTH, contains

if TYPE_CHECKING:
    from broker.mesh.control import Digest, EntryRow
    from broker.mesh.guard import Guard
    from broker.mesh.intake import Intake
    from broker.mesh.peer import Peer
    from broker.mesh.ranges import Range
    from broker.mesh.retained import Entry, Row, Version
    from broker.mesh.state import State

__all__ = ["Reconciler"]

_WORK: Final = "ranges and retained values"
_CONTROL: Final = 0
_NORMAL: Final = 2
"""Priority of a value that its origin asserts again; of the topic's own the core knows only where it is control."""


class Reconciler:
    """Decides when to reconcile, and answers."""

    __slots__ = ("_grounds", "_guard", "_intake", "_state")

    def __init__(self, state: State, intake: Intake, guard: Guard) -> None:
        self._guard = guard
        self._state = state
        self._intake = intake
        self._grounds = state.seals.grounds if state.seals is not None else None

    # When.

    def hear_digest(self, peer: Peer, digest: Digest, now_ns: int) -> None:
        """A neighbour says how its map stands."""
        state, exchange = self._state, peer.exchange
        _check_floor(digest.floor)
        state.age(now_ns)
        exchange.floor = digest.floor
        before = exchange.difference
        exchange.compared((digest.retained_hash - state.retained.hash) & HASH_MASK, now_ns)
        if exchange.difference == 0:
            if digest.settled:
                state.horizon.agree(digest.floor, state.clock.read(now_ns))
            if before:
                peer.digest_due = True
        elif state.joining or state.device < peer.name:
            reaches = self._logs_reach(peer)
            if exchange.begin(now_ns, log_reaches=reaches, at_once=state.joining):
                state.counters["reconciliations"] += 1
        else:
            exchange.recheck_later(now_ns)

    def _logs_reach(self, peer: Peer) -> bool:
        """Whether one of the two lacks bundles that the other's log can still give."""
        state = self._state
        for stream, (position, held) in peer.progress.entries.items():
            mine = state.kept.get(stream)
            if position > (mine.position if mine else START) >= held:
                return True
        for stream, kept in state.kept.items():
            theirs = peer.progress.entries.get(stream, (START, START))[0]
            if kept.position > theirs >= state.log.held_after.get(stream, START):
                return True
        return False

    def due(self, now_ns: int) -> None:
        """Drop what counts no more; tell neighbours that lead how the map stands now, where it differed."""
        seals = self._state.seals
        if seals is not None and seals.grounds is not self._grounds:
            self._grounds = seals.grounds
            self._judge_again()
        for peer in self._state.peers.values():
            exchange = peer.exchange
            if exchange.recheck_ns is None or now_ns < exchange.recheck_ns:
                continue
            exchange.recheck_ns = None
            exchange.recheck_later(now_ns)
            peer.digest_due = True

    def _judge_again(self) -> None:
        """Whoever had signed a value may have been revoked since: then it stands in nobody's way."""
        for topic, entry in list(self._state.retained.items()):
            if not self._guard.may_say(entry.origin, topic, entry.payload, entry.rank):
                self._drop(topic, entry)

    # What.

    def hear(self, peer: Peer, control: Ranges | Entries | Proofs | Ask, now_ns: int) -> None:
        """Take a record of an exchange.

        Raises:
            FrameInvalid: It is not what it claims, or there are too many of them.
        """
        exchange = peer.exchange
        exchange.busy(now_ns)
        match control:
            case Ranges(floor=floor, sums=sums, lists=lists):
                _check_floor(floor)
                exchange.work.charge(len(sums) + len(lists), _WORK, now_ns)
                for digits, prefix, packed in sums:
                    self._compare_sums(peer, (digits, prefix), packed, now_ns)
                for digits, prefix, rows in lists:
                    self._compare_list(peer, floor, (digits, prefix), rows, now_ns)
            case Ask(floor=floor, unknown=unknown, newer=newer):
                _check_floor(floor)
                exchange.work.charge(len(unknown) + len(newer), _WORK, now_ns)
                find = self._state.retained.find
                self._give(peer, floor, [t for t in map(find, unknown) if t is not None], now_ns)
                owe(exchange.entries_due, [t for t in map(find, newer) if t is not None])
            case Entries(entries=rows):
                exchange.work.charge(len(rows), _WORK, now_ns)
                self._take_entries(peer, rows)
            case Proofs(values=values):
                exchange.work.charge(WORK_PROOF * len(values), _WORK, now_ns)
                for topic, head, body in values:
                    self._take_proof(peer, topic, head, body, now_ns)

    def _compare_sums(self, peer: Peer, within: Range, packed: bytes, now_ns: int) -> None:
        digits, prefix = within
        if not 0 <= digits < DIGITS or not 0 <= prefix < 1 << (4 * digits):
            raise FrameInvalid("fingerprints of an impossible range")
        mine = self._state.retained.sums_below(within)
        different = [
            (digits + 1, prefix * WIDTH + digit)
            for digit, total in enumerate(unpack_sums(packed))
            if total != mine[digit]
        ]
        peer.exchange.work.charge(len(different), _WORK, now_ns)
        owe(peer.exchange.ranges_due, different)

    def _compare_list(
        self, peer: Peer, floor: int, within: Range, rows: list[Row], now_ns: int
    ) -> None:
        digits, prefix = within
        if not 0 <= digits <= DIGITS or not 0 <= prefix < 1 << (4 * digits):
            raise FrameInvalid("list of an impossible range")
        if not all(contains(within, row[0]) for row in rows):
            raise FrameInvalid("list of a range that it does not lie in")
        exchange = peer.exchange
        found = self._state.retained.compare(within, rows)
        exchange.work.charge(len(found.newer_here) + len(found.only_here), _WORK, now_ns)
        owe(exchange.entries_due, found.newer_here)
        self._give(peer, floor, found.only_here, now_ns)
        owe(exchange.newer, found.newer_there)
        owe(exchange.unknown, found.only_there)

    def _take_entries(self, peer: Peer, rows: list[EntryRow]) -> None:
        for topic, payload, qos, rank, clock, origin in rows:
            if (
                not 0 < len(topic) <= TOPIC_BYTES_MAX
                or any(c in topic for c in "\0+#")
                or is_private(topic)
                or len(payload) > MESSAGE_BYTES_MAX
                or not 0 <= qos <= 2
                or not 0 <= rank < INTEGER_MAX
                or not 0 < clock < CLOCK_MAX
                or not is_device(origin)
            ):
                raise FrameInvalid("retained value outside its limits")
        state, seals = self._state, self._state.seals
        for topic, payload, qos, rank, clock, origin in rows:
            if seals is not None and seals.needs_proof(topic):
                state.counters["retained_unproven"] += 1
                continue
            if not self._guard.may_say(origin, topic, payload, rank):
                continue
            message = Message(clock, qos << QOS_SHIFT | FLAG_RETAINED, 0, rank, topic, payload)
            self._take(peer, origin, message)

    def _take_proof(self, peer: Peer, topic: str, head: bytes, body: bytes, now_ns: int) -> None:
        """Take a value as its origin said it. The rest of its bundle may have been deleted since."""
        try:
            header = decode_header(head)
            if header.to or header.lifetime_ms or not self._guard.proves(header.lane) or not body:
                raise FrameInvalid("a bundle that proves no retained value")
            messages = decode_body(header, body)
        except BundleInvalid as error:
            raise FrameInvalid(str(error)) from None
        said = [message for message in messages if message.retained and message.topic == topic]
        if not said:
            raise FrameInvalid("a bundle that does not say the value that it is to prove")
        message, origin, guard = said[-1], header.origin, self._guard
        version = (message.rank, message.clock, origin)
        held, proof = self._state.retained.get(topic), self._state.retained.proof(topic)
        if held is not None and (held.version, proof is not None) >= (version, True):
            # What is no news changes nothing, and a tag costs more to check than all else together.
            self._settle(peer, topic, version)
            return
        again = body_of(Proofs([(topic, head, body)]))
        if not guard.is_genuine(peer.name, frame.PROOFS, again, header, head, body, now_ns):
            return
        if guard.may_say(origin, topic, message.payload, message.rank):
            self._take(peer, origin, message, Stored(header, head, body, None, SERVED))

    def _take(
        self, peer: Peer, origin: str, message: Message, stored: Stored | None = None
    ) -> None:
        """Take a value that a neighbour gave, in the bundle in which it was said if there is need of it."""
        state, topic, clock = self._state, message.topic, message.clock
        taken = self._intake.retain(origin, message, given=True)
        if stored is not None:
            state.note_proofs(stored, [message])
        if taken:
            state.counters["reconciled"] += 1
            state.deliver(origin, 0, [message])
            self._pass_on(peer, topic, clock)
        self._settle(peer, topic, (message.rank, clock, origin))

    def _settle(self, peer: Peer, topic: str, version: Version) -> None:
        """A neighbour has shown that it has this version: it need not be given what is the same here."""
        held = self._state.retained.get(topic)
        if held is not None and held.version == version:
            peer.exchange.entries_due.pop(topic, None)

    def _pass_on(self, peer: Peer, topic: str, clock: int) -> None:
        """Give news to the other neighbours, except what may be a challenge there."""
        for other in self._state.peers.values():
            floor = other.exchange.floor
            if other is peer or floor is None:
                continue
            if clock >= floor:
                owe(other.exchange.entries_due, [topic])
            else:
                other.digest_due = True

    # What a neighbour lacks.

    def _give(self, peer: Peer, floor: int, topics: list[str], now_ns: int) -> None:
        """Give a neighbour what it lacked while it had this floor, unless its lack means that it was deleted."""
        state = self._state
        state.age(now_ns)
        # A neighbour whose clock runs ahead has a floor that is too high; one's own clock bounds it.
        floor = min(floor, horizon_of(state.clock.read(now_ns)))
        before = state.retained.hash
        for topic in topics:
            entry = state.retained.get(topic)
            if entry is None:
                continue
            if entry.clock >= floor:
                owe(peer.exchange.entries_due, [topic])
            elif entry.payload and entry.origin == state.device and not state.horizon.stale:
                self._assert_again(topic, entry, now_ns)
            else:
                self._drop(topic, entry)
        if state.retained.hash != before:
            for other in state.peers.values():
                other.digest_due = True

    def _assert_again(self, topic: str, entry: Entry, now_ns: int) -> None:
        """Publish an own value anew, as it was: its origin is there and stands for it."""
        state = self._state
        flags = entry.qos << QOS_SHIFT | FLAG_RETAINED
        clock = state.clock.tick(now_ns)
        message = Message(clock, flags, 0, entry.rank, topic, entry.payload)
        if self._intake.retain(state.device, message):
            state.counters["retained_asserted"] += 1
            size = body_bytes_estimate(topic, entry.payload)
            authority = state.seals is not None and state.seals.carries_authority(topic)
            priority = _CONTROL if authority else _NORMAL
            state.origin.add(lane_of(priority, kept=entry.qos > 0), message, size)

    def _drop(self, topic: str, entry: Entry) -> None:
        """Forget an entry that was deleted elsewhere so long ago that nobody remembers; it is a deletion here."""
        state = self._state
        state.retained.drop(topic)
        state.changes.retained[topic] = None
        state.counters["retained_dropped"] += 1
        if entry.payload:
            flags = entry.qos << QOS_SHIFT | FLAG_RETAINED
            gone = Message(entry.clock + 1, flags, 0, entry.rank, topic, b"")
            state.deliver(entry.origin, 0, [gone])


def _check_floor(floor: int) -> None:
    if not 0 <= floor < CLOCK_MAX:
        raise FrameInvalid("an impossible floor")
