"""What is under way with one neighbour about retained values: what is still to be said, and when to begin anew.

Decides whether a difference is worth an exchange. A difference is the neighbour's hash over its map minus one's own,
so it stays the same number for as long as the same entries differ; what is only under way makes another number each
time. One that has stayed for RECONCILE_SOON_MS begins an exchange. One that has not, or that the log can still mend,
does so after RECONCILE_LATE_MS. Where an exchange did not change the difference, and where nothing stays, the pause
before the next one doubles; agreement ends it.

What is to be said is held as ranges, topics and topic hashes, each at most once and RECONCILE_DUE_MAX of a kind; the
records are made when there is room in a frame, of what the map holds then.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from broker.mesh.allowance import Allowance
from broker.mesh.control import Ask, Entries, Proofs, Ranges, encode_control, pack_sums
from broker.mesh.limits import (
    MS,
    RANGES_MAX,
    RECONCILE_DUE_MAX,
    RECONCILE_LATE_MS,
    RECONCILE_PAUSE_MAX_MS,
    RECONCILE_PAUSE_MS,
    RECONCILE_RECORD_BYTES,
    RECONCILE_SOON_MS,
    RECONCILE_WORK_MAX,
    RECONCILE_WORK_MS,
)
from broker.mesh.ranges import WIDTH

if TYPE_CHECKING:
    from broker.mesh.control import EntryRow
    from broker.mesh.ranges import Range
    from broker.mesh.retained import RetainedMap

__all__ = ["Exchange", "owe"]

_Key = TypeVar("_Key")
_EVERYTHING: Final[Range] = (0, 0)
_ROW_BYTES: Final = 32
_STEADY_NS: Final = RECONCILE_SOON_MS * MS * 3 // 4
"""A little less than what the neighbour waits before it says again how its map stands."""


class Exchange:
    """What is to be said to one neighbour about retained values, and when."""

    __slots__ = (
        "_begin_after_ns",
        "_begun",
        "_differs_since_ns",
        "_pause_ms",
        "_quiet_until_ns",
        "_recheck_after_ms",
        "_steady_since_ns",
        "difference",
        "entries_due",
        "floor",
        "newer",
        "ranges_due",
        "recheck_ns",
        "unknown",
        "work",
    )

    def __init__(self, now_ns: int) -> None:
        self.floor: int | None = None
        """The neighbour's, from its digest."""
        self.difference = 0
        """Its hash over its map minus this device's, when they were last compared."""
        self._differs_since_ns = self._steady_since_ns = now_ns
        self.recheck_ns: int | None = None
        """When to compare again, by saying a digest."""
        self._recheck_after_ms = RECONCILE_SOON_MS
        self._begun = 0
        """The difference when an exchange was begun last."""
        self._begin_after_ns = self._quiet_until_ns = now_ns
        self._pause_ms = RECONCILE_PAUSE_MS
        self.ranges_due: dict[Range, None] = {}
        self.entries_due: dict[str, None] = {}
        self.unknown: dict[int, None] = {}
        """Topic hashes to ask for because nothing is known of them."""
        self.newer: dict[int, None] = {}
        """Topic hashes to ask for because what is here is older."""
        self.work = Allowance(RECONCILE_WORK_MAX, RECONCILE_WORK_MS, now_ns)

    # When.

    def compared(self, difference: int, now_ns: int) -> None:
        """Both maps were compared."""
        if difference == 0:
            self.recheck_ns = None
            self._recheck_after_ms = RECONCILE_SOON_MS
            self._begun, self._pause_ms = 0, RECONCILE_PAUSE_MS
        elif difference != self.difference:
            self._steady_since_ns = now_ns
            if self.difference == 0:
                self._differs_since_ns = now_ns
        self.difference = difference

    def recheck_later(self, now_ns: int) -> None:
        """Have the maps compared again, each time after twice as long."""
        if self.recheck_ns is None:
            self.recheck_ns = now_ns + self._recheck_after_ms * MS
            self._recheck_after_ms = min(2 * self._recheck_after_ms, RECONCILE_LATE_MS)

    def begin(self, now_ns: int, *, log_reaches: bool, at_once: bool) -> bool:
        """Begin an exchange, if it is time. True when it was begun."""
        steady = at_once or (now_ns - self._steady_since_ns >= _STEADY_NS and not log_reaches)
        late = now_ns - self._differs_since_ns >= RECONCILE_LATE_MS * MS
        new = steady and self.difference != self._begun
        after_ns = self._quiet_until_ns if new else self._begin_after_ns
        if not (steady or late) or now_ns < after_ns or self.pending:
            return False
        self._pause_ms = RECONCILE_PAUSE_MS if new else self._pause_ms
        self._begin_after_ns = now_ns + self._pause_ms * MS
        self._pause_ms = min(2 * self._pause_ms, RECONCILE_PAUSE_MAX_MS)
        self._begun = self.difference
        self.ranges_due[_EVERYTHING] = None
        self.busy(now_ns)
        return True

    def busy(self, now_ns: int) -> None:
        """An exchange is under way: do not begin another over it."""
        self._quiet_until_ns = now_ns + RECONCILE_PAUSE_MS * MS
        self._begin_after_ns = max(self._begin_after_ns, self._quiet_until_ns)

    # What.

    @property
    def pending(self) -> bool:
        """Whether there is anything to say."""
        return bool(self.ranges_due or self.entries_due or self.unknown or self.newer)

    def next_record(self, retained: RetainedMap) -> bytes | None:
        """The next record to send, or None."""
        if self.ranges_due:
            return encode_control(self._ranges(retained))
        if self.unknown or self.newer:
            ask = Ask(retained.floor, _take(self.unknown), _take(self.newer))
            return encode_control(ask)
        rows: list[EntryRow] = []
        proven: list[tuple[str, bytes, bytes]] = []
        size = 0
        while self.entries_due and size < RECONCILE_RECORD_BYTES and len(proven) < RANGES_MAX:
            topic = next(iter(self.entries_due))
            entry, proof = retained.get(topic), retained.proof(topic)
            if (proven and proof is None) or (rows and proof is not None):
                break  # a record holds one kind
            del self.entries_due[topic]
            if proof is not None:
                proven.append((topic, *proof))
                size += len(topic) + len(proof.head) + len(proof.body)
            elif entry is not None:
                rows.append((topic, entry.payload, entry.qos, *entry.version))
                size += len(topic) + len(entry.payload) + _ROW_BYTES
        if proven:
            return encode_control(Proofs(proven))
        return encode_control(Entries(rows)) if rows else None

    def _ranges(self, retained: RetainedMap) -> Ranges:
        record = Ranges(retained.floor, [], [])
        size = 0
        while self.ranges_due and size < RECONCILE_RECORD_BYTES and len(record) < RANGES_MAX:
            within = next(iter(self.ranges_due))
            del self.ranges_due[within]
            rows = retained.rows(within)
            if rows is None:
                record.sums.append((*within, pack_sums(retained.sums_below(within))))
                size += _ROW_BYTES + WIDTH * 8
            else:
                record.lists.append((*within, rows))
                size += _ROW_BYTES * (1 + len(rows))
        return record


def owe(due: dict[_Key, None], more: list[_Key]) -> None:
    """Note what is to be said; what there is no room for shows in a later digest."""
    for each in more[: RECONCILE_DUE_MAX - len(due)]:
        due[each] = None


def _take(waiting: dict[int, None]) -> list[int]:
    taken = list(islice(waiting, RANGES_MAX))
    for key in taken:
        del waiting[key]
    return taken
