"""How long deletions are remembered, and whose word counts afterwards.

Theory of operation. A tombstone is forgotten TOMBSTONE_MS after it was written, by the full hour, so that devices
forget it at about the same moment. The floor is the clock below which a device has forgotten tombstones, and each
digest carries it: what is older than the floor and missing there was deleted there, or never came there. Nobody can
tell which, so whoever still holds such an entry drops it, unless it is its own: a living origin asserts it again.

That word counts only of a device that was there. One that was off for longer than the horizon, or has no memory, is
stale: its floor stays where it stood when it went (so its lack of something newer proves nothing, and nothing that it
alone remembers is purged), and it asserts nothing. It is stale until its map agrees with that of a neighbour who is
not, or until it has been up for as long as the horizon.

Assumes that a wall clock comes right within a boot, sooner or later: staleness is worked out again from the present
clock, the time since the boot and the stored bound each time, until it is settled.
"""

from __future__ import annotations

from typing import Final

from broker.mesh.clock import LOGICAL_BITS
from broker.mesh.limits import MS, TOMBSTONE_MS

__all__ = ["Horizon", "horizon_of"]

_HOUR: Final = (3600 * 1000) << LOGICAL_BITS


def horizon_of(clock: int) -> int:
    """The stamp below which tombstones are forgotten at `clock`."""
    return max(clock - clock % _HOUR - (TOMBSTONE_MS << LOGICAL_BITS), 0)


class Horizon:
    """One device's age.

    Args:
        bound: The stored clock bound: when this device was last up; 0: it has no memory.
        born_ns: Monotonic time of the boot.
    """

    __slots__ = ("_born_ns", "_bound", "_settled")

    def __init__(self, bound: int, born_ns: int) -> None:
        self._bound = bound
        self._born_ns = born_ns
        self._settled = False

    def stale(self, clock: int, now_ns: int) -> bool:
        """Whether this device's memory ended longer ago than deletions are remembered."""
        if self._settled:
            return False
        up_ms = (now_ns - self._born_ns) // MS
        if up_ms >= TOMBSTONE_MS:
            self._settled = True
            return False
        return self._bound < horizon_of(clock - (up_ms << LOGICAL_BITS))

    def floor(self, clock: int, now_ns: int) -> int:
        """The clock below which this device forgets tombstones at `clock`."""
        return horizon_of(self._bound if self.stale(clock, now_ns) else clock)

    def agree(self, floor: int, clock: int) -> None:
        """This device's map is equal to that of a neighbour with this floor."""
        if floor + _HOUR >= horizon_of(clock):
            self._settled = True
