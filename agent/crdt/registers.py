"""Last-writer-wins register: of several values of one thing, the newest.

Decides: which of two writes stands. (rank, clock, origin) orders them, the greatest wins, exactly
as the broker's retained map orders them, so that map and world never disagree.
Assumes: one write has one stamp. Where that fails (a device cloned with its disk), the payload
decides, greatest bytes first, so that two devices still agree.
On failure: it cannot; any two values have a join.
Source: Shapiro et al. 2011, LWW-register; the clock is hybrid logical (Kulkarni et al. 2014).
"""

from typing import Generic, TypeVar

import msgspec

__all__ = ["Register", "Stamp"]

ValueT = TypeVar("ValueT")


Stamp = tuple[int, int, str]
"""When a value was written, as (rank, clock, origin); greater is newer. The rank is an order that the writer's own
application keeps, the clock is hybrid logical, and the device that wrote it makes the stamp unique."""


class Register(msgspec.Struct, Generic[ValueT], frozen=True, gc=False):
    """A value, when it was written, and the bytes that said so."""

    stamp: Stamp
    payload: bytes
    """As published. Empty: the value was deleted, and this is its tombstone."""
    value: ValueT | None
    """What the payload says; None for a tombstone."""

    def is_newer_than(self, other: "Register[ValueT]") -> bool:
        """Whether this one replaces `other`."""
        if self.stamp == other.stamp:
            return self.payload > other.payload
        return self.stamp > other.stamp

    def join(self, other: "Register[ValueT]") -> "Register[ValueT]":
        """The newer of the two."""
        return other if other.is_newer_than(self) else self

    def canonical(self) -> bytes:
        """The value's bytes, the same wherever the values are the same."""
        return self.payload
