"""The retained map: one value per topic, the same on every device in the end, deletions included.

Decides who wins: (rank, clock, origin), the greatest. An empty payload is a deletion and stays as a tombstone, so an
older value that arrives late stays dead. Rank comes before the clock because some topics have an order of their own
(a manifest's counter), and map and world must not disagree about it. Tombstones older than the floor (`horizon.py`)
are forgotten; what to do with a value that old is not decided here.

Assumes that equal versions carry equal values: a version is one publish. Bounds: where a message enters, and a hard
cap for merges, beyond which the oldest version is evicted; that rule is the same on every device, so two maps that
have seen the same hold the same.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from broker.mesh.hashes import text_hash
from broker.mesh.limits import (
    PROOFS_BYTES_MAX,
    RETAINED_BYTES_MAX,
    RETAINED_HARD_FACTOR,
    RETAINED_TOPICS_MAX,
)
from broker.mesh.ranges import RangeTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.mesh.ranges import Range

__all__ = ["Comparison", "Entry", "Proof", "RetainedMap", "Row", "Version"]

Version = tuple[int, int, str]
"""(rank, clock, origin)."""
Row = tuple[int, int, int, str]
"""(topic hash, rank, clock, origin): an entry without its value."""


class Entry(NamedTuple):
    """A topic's retained value, or its tombstone."""

    rank: int
    clock: int
    origin: str
    payload: bytes
    qos: int

    @property
    def version(self) -> Version:
        """What orders it."""
        return (self.rank, self.clock, self.origin)


class Proof(NamedTuple):
    """The bundle in which a value was said, with its origin's tag."""

    head: bytes
    body: bytes


class Comparison(NamedTuple):
    """What differs between this map and another in one range."""

    newer_here: list[str]
    """Topics that the other has in an older version."""
    only_here: list[str]
    newer_there: list[int]
    """Topic hashes that are here in an older version."""
    only_there: list[int]


def _mark(topic: str, entry: Entry) -> int:
    return text_hash(f"{topic}\0{entry.rank}\0{entry.clock}\0{entry.origin}")


class RetainedMap:
    """Topic to entry, with fingerprints over ranges of topic hashes."""

    __slots__ = (
        "_bytes",
        "_entries",
        "_evicted",
        "_oldest",
        "_proofs",
        "_proofs_bytes",
        "_ranges",
        "floor",
        "live",
    )

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._ranges = RangeTree()
        self._bytes = 0
        self._proofs: dict[str, Proof] = {}
        self._proofs_bytes = 0
        self._evicted: list[str] = []
        self._oldest: list[tuple[bool, Version, str]] | None = None
        """A heap of what goes first, only while the map is about full; rows may be out of date."""
        self.floor = 0
        """Tombstones with a clock below it were forgotten."""
        self.live = 0
        """Entries that are not tombstones."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, topic: str) -> bool:
        return topic in self._entries

    @property
    def hash(self) -> int:
        """64 bits that stand for all versions."""
        return self._ranges.total

    def get(self, topic: str) -> Entry | None:
        """The entry of a topic, tombstones included."""
        return self._entries.get(topic)

    def items(self) -> Iterator[tuple[str, Entry]]:
        """All entries, tombstones included."""
        return iter(self._entries.items())

    def has_room(self, topic: str, payload: bytes) -> bool:
        """Whether a message may enter here: the limits of an origin, half the hard cap or less.

        A deletion always may; when tombstones crowd, the oldest of them gives way.
        """
        if not payload:
            return True
        present = self._entries.get(topic)
        more = not (present and present.payload)
        return (
            self.live + more <= RETAINED_TOPICS_MAX
            and self._bytes + len(topic) + len(payload) <= RETAINED_BYTES_MAX
        )

    def merge(self, topic: str, entry: Entry) -> bool:
        """Take an entry if it is newer than the one that is here. True when it was taken.

        Beyond the hard cap the oldest tombstone gives way, then the oldest value: a rule that is the same everywhere.
        It may be the new entry itself.
        """
        present = self._entries.get(topic)
        if present is not None and entry[:3] <= present[:3]:
            return False
        if present is None and not entry.payload and entry.clock < self.floor:
            return False
        key = text_hash(topic)
        if present is None and not self._wins_hash(key, topic, entry):
            return False
        if present is not None:
            self._bytes -= len(topic) + len(present.payload)
            self.live -= bool(present.payload)
            self._forget_proof(topic)
        self._entries[topic] = entry
        self._ranges.put(key, topic, _mark(topic, entry))
        self._bytes += len(topic) + len(entry.payload)
        self.live += bool(entry.payload)
        if self._oldest is not None:
            heapq.heappush(self._oldest, (bool(entry.payload), entry.version, topic))
        self._evict()
        return topic in self._entries

    def take_evicted(self) -> list[str]:
        """Topics that gave way since the last call."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def drop(self, topic: str) -> None:
        """Forget a topic altogether."""
        entry = self._entries.pop(topic)
        self._forget_proof(topic)
        self._ranges.remove(text_hash(topic))
        self._bytes -= len(topic) + len(entry.payload)
        self.live -= bool(entry.payload)

    def purge(self, floor: int) -> list[str]:
        """Forget the tombstones below `floor`, which only rises. Returns their topics."""
        if floor <= self.floor:
            return []
        self.floor = floor
        old = [t for t, e in self._entries.items() if not e.payload and e.clock < floor]
        for topic in old:
            self.drop(topic)
        return old

    # What proves who said it.

    def prove(self, topic: str, version: Version, proof: Proof) -> bool:
        """Keep the bundle of a value, if that is the one that is here. Beyond the bound the oldest goes."""
        entry = self._entries.get(topic)
        if entry is None or entry.version != version:
            return False
        self._forget_proof(topic)
        self._proofs[topic] = proof
        self._proofs_bytes += len(proof.head) + len(proof.body)
        while self._proofs_bytes > PROOFS_BYTES_MAX:
            self._forget_proof(next(iter(self._proofs)))
        return True

    def proof(self, topic: str) -> Proof | None:
        """The bundle of a value, where it is known."""
        return self._proofs.get(topic)

    def _forget_proof(self, topic: str) -> None:
        proof = self._proofs.pop(topic, None)
        if proof is not None:
            self._proofs_bytes -= len(proof.head) + len(proof.body)

    # Comparing with another map.

    def sums_below(self, within: Range) -> list[int]:
        """Fingerprints of the sixteen ranges below a range."""
        return self._ranges.sums_below(within)

    def rows(self, within: Range) -> list[Row] | None:
        """Versions of all in a range, ordered by hash; None when they are too many for a list."""
        listed = self._ranges.listed(within)
        if listed is None:
            return None
        return [(key, *self._entries[topic].version) for key, topic in listed]

    def find(self, key: int) -> str | None:
        """The topic behind a topic hash."""
        return self._ranges.find(key)

    def compare(self, within: Range, theirs: Iterable[Row]) -> Comparison:
        """Hold a list of all that another map has in a range against this one."""
        result = Comparison([], [], [], [])
        named = set()
        for key, *version in theirs:
            named.add(key)
            topic = self._ranges.find(key)
            if topic is None:
                result.only_there.append(key)
            elif (mine := self._entries[topic].version) < tuple(version):
                result.newer_there.append(key)
            elif mine > tuple(version):
                result.newer_here.append(topic)
        result.only_here.extend(t for k, t in self._ranges.items(within) if k not in named)
        return result

    # Inside.

    def _wins_hash(self, key: int, topic: str, entry: Entry) -> bool:
        """Whether a topic may have its hash. Two that share one are made on purpose; the greater version stays."""
        other = self._ranges.find(key)
        if other is None:
            return True
        if (entry.version, topic) <= (self._entries[other].version, other):
            return False
        self.drop(other)
        self._evicted.append(other)
        return True

    def _evict(self) -> None:
        entries_max = RETAINED_TOPICS_MAX * RETAINED_HARD_FACTOR
        bytes_max = RETAINED_BYTES_MAX * RETAINED_HARD_FACTOR
        while len(self._entries) > entries_max or self._bytes > bytes_max:
            if self._oldest is None:
                self._oldest = [(bool(e.payload), e.version, t) for t, e in self._entries.items()]
                heapq.heapify(self._oldest)
            alive, version, topic = heapq.heappop(self._oldest)
            entry = self._entries.get(topic)
            if entry is not None and (bool(entry.payload), entry.version) == (alive, version):
                self.drop(topic)
                self._evicted.append(topic)
        if self._oldest is not None and len(self._oldest) > 2 * len(self._entries) + 1024:
            self._oldest = None
