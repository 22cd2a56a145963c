"""Counters that several replicas count at once: G-counter (up) and PN-counter (up and down).

Decides: the total of what all replicas counted. A replica is one writer in one incarnation, so no
two writers ever count under one name.
Assumes: a replica's own numbers only grow.
On failure: a replica that forgot its numbers (a lost disk) counts on under a new name; its old
numbers stay in the join.
Source: Shapiro et al. 2011, state-based counters; join by replica's maximum as in Pekko.
"""

from collections.abc import Iterator, Mapping

import msgspec

__all__ = ["GCounter", "PnCounter"]


class GCounter(msgspec.Struct, frozen=True):
    """Counts up. Immutable: `increment` and `join` give a new one."""

    replicas: Mapping[str, int] = {}
    """Replica to what it counted, 0 or more."""

    @property
    def value(self) -> int:
        """The sum over all replicas."""
        return sum(self.replicas.values())

    def increment(self, replica: str, by: int = 1) -> "GCounter":
        """`replica` counted `by` more.

        Raises:
            ValueError: `by` is negative.
        """
        if by < 0:
            raise ValueError(f"a G-counter cannot count {by}; use a PN-counter to count down")
        return GCounter({**self.replicas, replica: self.replicas.get(replica, 0) + by})

    def join(self, other: "GCounter") -> "GCounter":
        """What both know: by replica, the greater number."""
        joined = dict(self.replicas)
        for replica, number in other.replicas.items():
            if number >= joined.get(replica, 0):
                joined[replica] = number
        return GCounter(joined)

    def covers(self, other: "GCounter") -> bool:
        """Whether a join with `other` would change nothing."""
        mine = self.replicas
        return all(mine.get(replica, -1) >= number for replica, number in other.replicas.items())

    def canonical(self) -> bytes:
        """Equal bytes for equal counters."""
        return msgspec.json.encode(sorted(self.replicas.items()))


class PnCounter(msgspec.Struct, frozen=True):
    """Counts up and down: what went up and what went down, each a G-counter."""

    up: GCounter = GCounter()
    down: GCounter = GCounter()

    @classmethod
    def of(cls, replicas: Mapping[str, tuple[int, int]]) -> "PnCounter":
        """From replica to (sum of increments, sum of decrements), both 0 or more."""
        return cls(
            GCounter({replica: pair[0] for replica, pair in replicas.items()}),
            GCounter({replica: pair[1] for replica, pair in replicas.items()}),
        )

    @property
    def value(self) -> int:
        """Increments less decrements, over all replicas."""
        return self.up.value - self.down.value

    def replicas(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Replica and (sum of increments, sum of decrements), in the order of replicas."""
        for replica in sorted({*self.up.replicas, *self.down.replicas}):
            yield replica, (self.up.replicas.get(replica, 0), self.down.replicas.get(replica, 0))

    def add(self, replica: str, by: int) -> "PnCounter":
        """`replica` counted `by` more; negative counts down."""
        if by < 0:
            return PnCounter(self.up, self.down.increment(replica, -by))
        return PnCounter(self.up.increment(replica, by), self.down)

    def join(self, other: "PnCounter") -> "PnCounter":
        """What both know."""
        return PnCounter(self.up.join(other.up), self.down.join(other.down))

    def covers(self, other: "PnCounter") -> bool:
        """Whether a join with `other` would change nothing."""
        return self.up.covers(other.up) and self.down.covers(other.down)

    def canonical(self) -> bytes:
        """Equal bytes for equal counters."""
        return self.up.canonical() + self.down.canonical()
