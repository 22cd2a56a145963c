"""Reconciling retained maps with a neighbour, where no log reaches: bytes in proportion to what differs.

Theory of operation. Each digest carries a hash over the map. When it has differed for longer than bundles can be
under way, and no log can still bring what is missing, the lower of the two device ids leads (a device that joins leads
at once). Leading is one record: the sixteen fingerprints below everything, or the whole map as a list if it is short.
Whoever hears fingerprints answers, for each range that differs, with narrower fingerprints or with a list; whoever
hears a list answers with the values that are newer or only here, and asks for those that are newer or only there. No
step remembers another: entries may change meanwhile, both may lead at once, and a link may die anywhere. What is still
different then shows in the next digest, and the pause before the next attempt doubles until something moves.

What is to be said is worked out from the map when there is room in a frame, and each range and topic waits at most
once. A value that was news here goes on to the other neighbours at once, as a bundle would.

An entry that a neighbour lacks and that is below its floor is not given but challenged: see `horizon.py`.

Assumes that a neighbour's floor is known (its digest was heard) before anything is given. A neighbour that lies costs
RECONCILE_WORK_MAX steps per window, told and counted beyond; it can give and withhold values as any publisher can.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from broker.mesh import frame
from broker.mesh.bundle import (
    FLAG_RETAINED,
    INTEGER_MAX,
    QOS_SHIFT,
    Message,
    body_bytes_estimate,
    lane_of,
)
from broker.mesh.frame import Ask, Entries, FrameInvalid, Ranges
from broker.mesh.horizon import horizon_of
from broker.mesh.limits import (
    CLOCK_MAX,
    MESSAGE_BYTES_MAX,
    MS,
    ORIGIN_BYTES_MAX,
    RANGES_MAX,
    RECONCILE_DUE_MAX,
    RECONCILE_LATE_MS,
    RECONCILE_PAUSE_MAX_MS,
    RECONCILE_PAUSE_MS,
    RECONCILE_RECORD_BYTES,
    RECONCILE_SOON_MS,
    RECONCILE_WORK_MAX,
    RECONCILE_WORK_MS,
    TOPIC_BYTES_MAX,
)
from broker.mesh.ranges import DIGITS, WIDTH, contains
from broker.mesh.streams import START

if TYPE_CHECKING:
    from broker.mesh.frame import Digest
    from broker.mesh.intake import Intake
    from broker.mesh.peer import Peer
    from broker.mesh.ranges import Range
    from broker.mesh.retained import Entry, RetainedMap, Row
    from broker.mesh.state import State

__all__ = ["Exchange", "Reconciler"]

_Key = TypeVar("_Key")
_EVERYTHING: Final[Range] = (0, 0)
_ROW_BYTES: Final = 32
_NORMAL: Final = 2
"""Priority of a value that its origin asserts again; the core does not know the topic's own."""


class Exchange:
    """What is to be said to one neighbour about retained values."""

    __slots__ = (
        "begin_after_ns",
        "differs_since_ns",
        "entries_due",
        "floor",
        "newer",
        "pause_ms",
        "ranges_due",
        "recheck_after_ms",
        "recheck_ns",
        "their_hash",
        "unknown",
        "work",
        "work_since_ns",
    )

    def __init__(self, now_ns: int) -> None:
        self.their_hash: int | None = None
        self.floor: int | None = None
        """The neighbour's, from its digest."""
        self.differs_since_ns: int | None = None
        self.recheck_ns: int | None = None
        """When to compare again, by saying a digest."""
        self.recheck_after_ms = RECONCILE_SOON_MS
        self.begin_after_ns = now_ns
        self.pause_ms = RECONCILE_PAUSE_MS
        self.ranges_due: dict[Range, None] = {}
        self.entries_due: dict[str, None] = {}
        self.unknown: dict[int, None] = {}
        """Topic hashes to ask for because nothing is known of them."""
        self.newer: dict[int, None] = {}
        """Topic hashes to ask for because what is here is older."""
        self.work = 0
        self.work_since_ns = now_ns

    @property
    def pending(self) -> bool:
        """Whether something waits to be said."""
        return bool(self.ranges_due or self.entries_due or self.unknown or self.newer)

    def agreed(self) -> None:
        """Both maps are equal."""
        self.differs_since_ns = self.recheck_ns = None
        self.recheck_after_ms = RECONCILE_SOON_MS
        self.pause_ms = RECONCILE_PAUSE_MS

    def next_record(self, retained: RetainedMap) -> bytes | None:
        """The next record to send, or None."""
        if self.ranges_due:
            return frame.encode_control(self._ranges(retained))
        if self.unknown or self.newer:
            ask = Ask(_take(self.unknown), _take(self.newer))
            return frame.encode_control(ask)
        rows = []
        size = 0
        while self.entries_due and size < RECONCILE_RECORD_BYTES:
            topic = next(iter(self.entries_due))
            del self.entries_due[topic]
            entry = retained.get(topic)
            if entry is not None:
                rows.append((topic, entry.payload, entry.qos, *entry.version))
                size += len(topic) + len(entry.payload) + _ROW_BYTES
        return frame.encode_control(Entries(rows)) if rows else None

    def _ranges(self, retained: RetainedMap) -> Ranges:
        record = Ranges([], [])
        size = 0
        while self.ranges_due and size < RECONCILE_RECORD_BYTES and len(record) < RANGES_MAX:
            within = next(iter(self.ranges_due))
            del self.ranges_due[within]
            rows = retained.rows(within)
            if rows is None:
                record.sums.append((*within, frame.pack_sums(retained.sums_below(within))))
                size += _ROW_BYTES + WIDTH * 8
            else:
                record.lists.append((*within, rows))
                size += _ROW_BYTES * (1 + len(rows))
        return record


def _owe(due: dict[_Key, None], more: list[_Key]) -> None:
    """Note what is to be said; what there is no room for shows in a later digest."""
    for each in more[: RECONCILE_DUE_MAX - len(due)]:
        due[each] = None


def _take(waiting: dict[int, None]) -> list[int]:
    taken = list(islice(waiting, RANGES_MAX))
    for key in taken:
        del waiting[key]
    return taken


class Reconciler:
    """Decides when to reconcile, and answers."""

    __slots__ = ("_intake", "_state")

    def __init__(self, state: State, intake: Intake) -> None:
        self._state = state
        self._intake = intake

    # When.

    def hear_digest(self, peer: Peer, digest: Digest, now_ns: int) -> None:
        """A neighbour says how its map stands."""
        state, exchange = self._state, peer.exchange
        if not 0 <= digest.floor < CLOCK_MAX:
            raise FrameInvalid("digest with an impossible floor")
        state.age(now_ns)
        exchange.their_hash, exchange.floor = digest.retained_hash, digest.floor
        if digest.retained_hash == state.retained.hash:
            if digest.settled:
                state.horizon.agree(digest.floor, state.clock.read(now_ns))
            if exchange.differs_since_ns is not None:
                exchange.agreed()
                peer.digest_due = True
            return
        if exchange.differs_since_ns is None:
            exchange.differs_since_ns = now_ns
        if not (state.joining or state.device < peer.name):
            if exchange.recheck_ns is None:
                exchange.recheck_ns = now_ns + exchange.recheck_after_ms * MS
            return
        # A little less than what the other waits before it says again how its map stands.
        soon_ms = RECONCILE_SOON_MS * 3 // 4
        patience_ms = RECONCILE_LATE_MS if self._logs_reach(peer) else soon_ms
        waited_ns = now_ns - exchange.differs_since_ns
        if state.joining or waited_ns >= patience_ms * MS:
            self._begin(peer, now_ns)

    def _begin(self, peer: Peer, now_ns: int) -> None:
        exchange = peer.exchange
        if now_ns < exchange.begin_after_ns or exchange.pending:
            return
        exchange.begin_after_ns = now_ns + exchange.pause_ms * MS
        exchange.pause_ms = min(2 * exchange.pause_ms, RECONCILE_PAUSE_MAX_MS)
        exchange.ranges_due[_EVERYTHING] = None
        self._state.counters["reconciliations"] += 1

    def _logs_reach(self, peer: Peer) -> bool:
        """Whether one of the two lacks bundles that the other's log can still give."""
        state = self._state
        for stream, (position, held) in peer.theirs.items():
            mine = state.kept.get(stream)
            if position > (mine.position if mine else START) >= held:
                return True
        for stream, kept in state.kept.items():
            theirs = peer.theirs.get(stream, (START, START))[0]
            if kept.position > theirs >= state.log.held_after.get(stream, START):
                return True
        return False

    def next_ns(self) -> int | None:
        """When `due` wants to be called."""
        times = [p.exchange.recheck_ns for p in self._state.peers.values()]
        return min((at_ns for at_ns in times if at_ns is not None), default=None)

    def due(self, now_ns: int) -> None:
        """Tell neighbours that lead how the map stands now, where it differed."""
        for peer in self._state.peers.values():
            exchange = peer.exchange
            if exchange.recheck_ns is None or now_ns < exchange.recheck_ns:
                continue
            exchange.recheck_ns = None
            if exchange.their_hash != self._state.retained.hash:
                exchange.recheck_after_ms = min(2 * exchange.recheck_after_ms, RECONCILE_LATE_MS)
                exchange.recheck_ns = now_ns + exchange.recheck_after_ms * MS
                peer.digest_due = True

    # What.

    def hear(self, peer: Peer, control: Ranges | Entries | Ask, now_ns: int) -> None:
        """Take a record of an exchange.

        Raises:
            FrameInvalid: It is not what it claims, or there are too many of them.
        """
        exchange = peer.exchange
        pause_until_ns = now_ns + RECONCILE_PAUSE_MS * MS
        exchange.begin_after_ns = max(exchange.begin_after_ns, pause_until_ns)
        match control:
            case Ranges(sums=sums, lists=lists):
                self._work(exchange, len(sums) + len(lists), now_ns)
                for digits, prefix, packed in sums:
                    self._compare_sums(peer, (digits, prefix), packed, now_ns)
                for digits, prefix, rows in lists:
                    self._compare_list(peer, (digits, prefix), rows, now_ns)
            case Ask(unknown=unknown, newer=newer):
                self._work(exchange, len(unknown) + len(newer), now_ns)
                exchange.pause_ms = RECONCILE_PAUSE_MS
                find = self._state.retained.find
                self._give(peer, [t for t in map(find, unknown) if t is not None], now_ns)
                _owe(exchange.entries_due, [t for t in map(find, newer) if t is not None])
            case Entries(entries=rows):
                self._take_entries(peer, rows)

    def _work(self, exchange: Exchange, steps: int, now_ns: int) -> None:
        if now_ns - exchange.work_since_ns >= RECONCILE_WORK_MS * MS:
            exchange.work, exchange.work_since_ns = 0, now_ns
        exchange.work += steps
        if exchange.work > RECONCILE_WORK_MAX:
            self._state.counters["reconcile_refused"] += 1
            raise FrameInvalid("more ranges than two maps can differ in")

    def _compare_sums(self, peer: Peer, within: Range, packed: bytes, now_ns: int) -> None:
        digits, prefix = within
        if not 0 <= digits < DIGITS or not 0 <= prefix < 1 << (4 * digits):
            raise FrameInvalid("fingerprints of an impossible range")
        mine = self._state.retained.sums_below(within)
        different = [
            (digits + 1, prefix * WIDTH + digit)
            for digit, total in enumerate(frame.unpack_sums(packed))
            if total != mine[digit]
        ]
        self._work(peer.exchange, len(different), now_ns)
        _owe(peer.exchange.ranges_due, different)

    def _compare_list(self, peer: Peer, within: Range, rows: list[Row], now_ns: int) -> None:
        digits, prefix = within
        if not 0 <= digits <= DIGITS or not 0 <= prefix < 1 << (4 * digits):
            raise FrameInvalid("list of an impossible range")
        if not all(contains(within, row[0]) for row in rows):
            raise FrameInvalid("list of a range that it does not lie in")
        exchange = peer.exchange
        found = self._state.retained.compare(within, rows)
        self._work(exchange, len(found.newer_here) + len(found.only_here), now_ns)
        _owe(exchange.entries_due, found.newer_here)
        self._give(peer, found.only_here, now_ns)
        _owe(exchange.newer, found.newer_there)
        _owe(exchange.unknown, found.only_there)

    def _take_entries(self, peer: Peer, rows: list[tuple[str, bytes, int, int, int, str]]) -> None:
        for topic, payload, qos, rank, clock, origin in rows:
            if (
                not 0 < len(topic) <= TOPIC_BYTES_MAX
                or any(c in topic for c in "\0+#")
                or len(payload) > MESSAGE_BYTES_MAX
                or not 0 <= qos <= 2
                or not 0 <= rank < INTEGER_MAX
                or not 0 < clock < CLOCK_MAX
                or not 0 < len(origin) <= ORIGIN_BYTES_MAX
            ):
                raise FrameInvalid("retained value outside its limits")
        state = self._state
        for topic, payload, qos, rank, clock, origin in rows:
            peer.exchange.entries_due.pop(topic, None)
            message = Message(clock, qos << QOS_SHIFT | FLAG_RETAINED, 0, rank, topic, payload)
            if self._intake.retain(origin, message, given=True):
                peer.exchange.pause_ms = RECONCILE_PAUSE_MS
                state.counters["reconciled"] += 1
                state.deliver(origin, 0, [message])
                self._pass_on(peer, topic, clock)

    def _pass_on(self, peer: Peer, topic: str, clock: int) -> None:
        """Give news to the other neighbours, except what may be a challenge there."""
        for other in self._state.peers.values():
            floor = other.exchange.floor
            if other is peer or floor is None:
                continue
            if clock >= floor:
                _owe(other.exchange.entries_due, [topic])
            else:
                other.digest_due = True

    # What a neighbour lacks.

    def _give(self, peer: Peer, topics: list[str], now_ns: int) -> None:
        """Give a neighbour what it lacks, unless its lack means that it was deleted."""
        state, floor = self._state, peer.exchange.floor
        if floor is None:
            return
        state.age(now_ns)
        # A neighbour whose clock runs ahead has a floor that is too high; one's own clock bounds it.
        floor = min(floor, horizon_of(state.clock.read(now_ns)))
        before = state.retained.hash
        for topic in topics:
            entry = state.retained.get(topic)
            if entry is None:
                continue
            if entry.clock >= floor:
                _owe(peer.exchange.entries_due, [topic])
            elif entry.payload and entry.origin == state.device and not state.horizon.stale:
                self._assert_again(topic, entry, now_ns)
            else:
                self._drop(topic, entry)
        if state.retained.hash != before:
            peer.exchange.pause_ms = RECONCILE_PAUSE_MS
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
            state.origin.add(lane_of(_NORMAL, kept=entry.qos > 0), message, size)

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
