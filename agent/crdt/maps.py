"""Maps of replicated values: by key the newest register, or by key the join of writers' replicas.

Decides: in `NewestMap`, which keys stay when there are too many: those of the greatest weight. In
`JoinMap`, what all writers together say.
Assumes: a weight is fixed by the register that brings it.
On failure: never; a key too many is handed back to the caller instead of being dropped silently.
Source: why the bound keeps the join a join: weights only grow, so an entry once pushed out by
`entries_max` heavier ones could never come back among them, in whatever order they arrived.
"""

from collections.abc import Iterator
from heapq import heappop, heappush, heapreplace
from typing import Generic, Protocol, Self, TypeVar

import msgspec

from agent.crdt.registers import Register

__all__ = ["Entry", "JoinMap", "NewestMap", "Weight"]

ValueT = TypeVar("ValueT")

Weight = tuple[int, int, str]
"""What decides who stays in a full map; greater stays. Ties fall to the greater key."""


class Entry(msgspec.Struct, Generic[ValueT], frozen=True, gc=False):
    """What a `NewestMap` holds for a key."""

    register: Register[ValueT]
    """The newest seen."""
    weight: Weight
    """The greatest seen, of older registers too."""


class NewestMap(Generic[ValueT]):
    """Key to the newest register, tombstones included. Mutable, bounded.

    Args:
        entries_max: With one more, the entry of the least weight goes.
    """

    __slots__ = ("_by_weight", "_entries", "entries_max")

    def __init__(self, entries_max: int) -> None:
        self.entries_max = entries_max
        self._entries: dict[str, Entry[ValueT]] = {}
        # One item per key. Updates leave it alone: a weight that has grown is mended when popped.
        self._by_weight: list[tuple[Weight, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def items(self) -> list[tuple[str, Entry[ValueT]]]:
        """All entries in the order of their keys."""
        return sorted(self._entries.items(), key=_key_of)

    def put(self, key: str, register: Register[ValueT], weight: Weight) -> bool:
        """Take `register` in if it is newer. Returns whether it was.

        The map may hold one entry too many afterwards: `pop_excess` takes it out.
        """
        known = self._entries.get(key)
        if known is None:
            self._entries[key] = Entry(register, weight)
            heappush(self._by_weight, (weight, key))
            return True
        newer = register.is_newer_than(known.register)
        heavier = weight > known.weight
        if newer or heavier:
            self._entries[key] = Entry(
                register if newer else known.register, weight if heavier else known.weight
            )
        return newer

    def pop_excess(self) -> Iterator[str]:
        """Take out the entries beyond `entries_max`, the least weight first. Yields their keys."""
        while len(self._entries) > self.entries_max:
            self._least()
            yield self._pop()

    def pop_until(self, first: int) -> Iterator[str]:
        """Take out the entries whose weight begins with `first` or less. Yields their keys."""
        while self._entries and self._least()[0] <= first:
            yield self._pop()

    def join(self, other: "NewestMap[ValueT]") -> None:
        """Take in all that `other` holds."""
        for key, entry in other.items():
            self.put(key, entry.register, entry.weight)
        for _ in self.pop_excess():
            pass

    def canonical(self) -> bytes:
        """Equal bytes for equal maps."""
        return msgspec.msgpack.encode(
            [
                (
                    key,
                    *entry.register.stamp,
                    entry.register.canonical(),
                    entry.weight,
                )
                for key, entry in self.items()
            ]
        )

    def _least(self) -> Weight:
        """The least weight of all, with its item on top of the heap."""
        while True:
            weight, key = self._by_weight[0]
            current = self._entries[key].weight
            if current == weight:
                return weight
            heapreplace(self._by_weight, (current, key))

    def _pop(self) -> str:
        key = heappop(self._by_weight)[1]
        del self._entries[key]
        return key


def _key_of(item: tuple[str, object]) -> str:
    return item[0]


class Replica(Protocol):
    """What a `JoinMap` joins."""

    def join(self, other: "Self", /) -> "Self":
        """What both know."""

    def covers(self, other: "Self", /) -> bool:
        """Whether a join with `other` would change nothing."""


ReplicaT = TypeVar("ReplicaT", bound=Replica)


class JoinMap(Generic[ReplicaT]):
    """Key to what its writers' replicas say together. Mutable; its user bounds it."""

    __slots__ = ("_joined", "_replicas")

    def __init__(self) -> None:
        self._replicas: dict[str, dict[str, ReplicaT]] = {}
        self._joined: dict[str, ReplicaT] = {}

    def get(self, key: str) -> ReplicaT | None:
        """The join of all replicas of `key`; None if there is none."""
        return self._joined.get(key)

    def put(self, key: str, writer: str, replica: ReplicaT | None) -> None:
        """`writer` says `replica`, in place of what it said before; None: nothing any more."""
        replicas = self._replicas.setdefault(key, {})
        before = replicas.pop(writer, None)
        if replica is not None:
            replicas[writer] = replica
        if not replicas:
            self._replicas.pop(key)
            self._joined.pop(key, None)
        elif replica is not None and (before is None or replica.covers(before)):
            # The usual case: a replica grew, so the join grows by it alone.
            joined = self._joined.get(key)
            self._joined[key] = replica if joined is None else joined.join(replica)
        else:
            self._joined[key] = self._join_all(replicas)

    @staticmethod
    def _join_all(replicas: dict[str, ReplicaT]) -> ReplicaT:
        several = iter(replicas.values())
        joined = next(several)
        for replica in several:
            joined = joined.join(replica)
        return joined
