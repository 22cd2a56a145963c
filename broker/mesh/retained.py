"""The retained map: one value per topic, the same on every device in the end, deletions included.

Decides who wins: (rank, clock, origin), the greatest. An empty payload is a deletion and stays as a tombstone, so an
older value that arrives late stays dead. Rank comes before the clock because some topics have an order of their own
(a manifest's counter), and map and world must not disagree about it.

Assumes that equal versions carry equal values: a version is one publish. Bounds: where a message enters, and a hard
cap for merges, beyond which the oldest version is refused or evicted; that rule is the same on every device.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.mesh.bundle import topic_hash
from broker.mesh.clock import LOGICAL_BITS
from broker.mesh.limits import (
    RETAINED_BYTES_MAX,
    RETAINED_HARD_FACTOR,
    RETAINED_TOPICS_MAX,
    TOMBSTONE_MS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Entry", "RetainedMap", "Version"]

Version = tuple[int, int, str]
"""(rank, clock, origin)."""

_HASH_MASK: Final = (1 << 64) - 1
_PURGE_STEP: Final = (3600 * 1000) << LOGICAL_BITS
"""Tombstones go by the full hour, so that devices forget them at about the same moment."""


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


def _entry_hash(topic: str, entry: Entry) -> int:
    text = f"{topic}\0{entry.rank}\0{entry.clock}\0{entry.origin}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


class RetainedMap:
    """Topic to entry, with a running hash over all versions."""

    __slots__ = ("_by_hash", "_bytes", "_entries", "_evicted", "_horizon", "hash", "live")

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._by_hash: dict[int, str] = {}
        self._bytes = 0
        self._evicted: list[str] = []
        self._horizon = 0
        self.hash = 0
        self.live = 0
        """Entries that are not tombstones."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, topic: str) -> bool:
        return topic in self._entries

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
        if not entry.payload and entry.clock < self._horizon:
            return False
        if present is not None:
            self._remove(topic, present)
        self._entries[topic] = entry
        self._by_hash[topic_hash(topic)] = topic
        self._bytes += len(topic) + len(entry.payload)
        self.hash = (self.hash + _entry_hash(topic, entry)) & _HASH_MASK
        self.live += bool(entry.payload)
        while (
            len(self._entries) > RETAINED_TOPICS_MAX * RETAINED_HARD_FACTOR
            or self._bytes > RETAINED_BYTES_MAX * RETAINED_HARD_FACTOR
        ):
            self._evict_oldest()
        return topic in self._entries

    def take_evicted(self) -> list[str]:
        """Topics that gave way since the last call."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def versions(self) -> list[tuple[int, int, int, str]]:
        """(topic hash, rank, clock, origin) of every entry, ordered by hash."""
        rows = [(key, *self._entries[topic][:3]) for key, topic in self._by_hash.items()]
        rows.sort()
        return rows

    def by_hash(self, key: int) -> tuple[str, Entry] | None:
        """The topic and entry behind a topic hash."""
        topic = self._by_hash.get(key)
        return None if topic is None else (topic, self._entries[topic])

    def compare(
        self, theirs: Iterable[tuple[int, int, int, str]]
    ) -> tuple[list[tuple[str, Entry]], list[int]]:
        """Hold a whole table of versions against this map.

        Returns:
            The entries that are newer here or unknown there, and the topic hashes that are newer or only there.
        """
        missing = set(self._by_hash)
        newer_here: list[tuple[str, Entry]] = []
        newer_there: list[int] = []
        for key, rank, clock, origin in theirs:
            missing.discard(key)
            found = self.by_hash(key)
            version = (rank, clock, origin)
            if found is None or found[1].version < version:
                newer_there.append(key)
            elif found[1].version > version:
                newer_here.append(found)
        newer_here += [
            (self._by_hash[key], self._entries[self._by_hash[key]]) for key in sorted(missing)
        ]
        return newer_here, newer_there

    def purge(self, clock: int) -> list[str]:
        """Forget tombstones older than the horizon at `clock`. Returns their topics."""
        horizon = clock - clock % _PURGE_STEP - (TOMBSTONE_MS << LOGICAL_BITS)
        self._horizon = max(horizon, self._horizon)
        old = [t for t, e in self._entries.items() if not e.payload and e.clock < horizon]
        for topic in old:
            self._remove(topic, self._entries.pop(topic))
            del self._by_hash[topic_hash(topic)]
        return old

    def _remove(self, topic: str, entry: Entry) -> None:
        self._bytes -= len(topic) + len(entry.payload)
        self.hash = (self.hash - _entry_hash(topic, entry)) & _HASH_MASK
        self.live -= bool(entry.payload)

    def _evict_oldest(self) -> None:
        entries = self._entries
        oldest = min(entries, key=lambda topic: (bool(entries[topic].payload), entries[topic][:3]))
        self._remove(oldest, entries.pop(oldest))
        del self._by_hash[topic_hash(oldest)]
        self._evicted.append(oldest)
