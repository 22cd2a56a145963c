"""How long deletions are remembered, and whose word counts afterwards.

Theory of operation. A tombstone is forgotten TOMBSTONE_MS after it was written, by the full hour, so that devices
forget it at about the same moment. The floor is the clock below which a device has forgotten tombstones, and each
digest carries it: what is older than the floor and missing there was deleted there, or never came there. Nobody can
tell which, so whoever still holds such an entry drops it, unless it is its own: a living origin asserts it again.

That word counts only of a device that was there. One that was off for longer than the horizon, or began without
memory, is stale: its floor is 0 (what it lacks proves nothing, and it forgets no deletion), and it asserts nothing. It
is stale until its map agrees with that of a neighbour who is not, or until it has been there for as long as the
horizon. What is stored is since when it has been there, so a device that is killed while it still takes up the
fleet's memory stays stale.

Assumes that a wall clock comes right within a boot, sooner or later: when the boot was is worked out again from the
present clock and the time since, until it is settled.
"""

from __future__ import annotations

from typing import Final

from broker.mesh.clock import LOGICAL_BITS
from broker.mesh.limits import MS, TOMBSTONE_MS

__all__ = ["Horizon", "horizon_of"]

_HOUR: Final = (3600 * 1000) << LOGICAL_BITS
_AGREED: Final = 0


def horizon_of(clock: int) -> int:
    """The stamp below which tombstones are forgotten at `clock`."""
    return max(clock - clock % _HOUR - (TOMBSTONE_MS << LOGICAL_BITS), 0)


class Horizon:
    """What one device's memory is worth.

    Args:
        known_since: As it was stored; None: there was no memory.
        bound: The stored clock bound: when this device was last up.
        born_ns: Monotonic time of the boot.
    """

    __slots__ = ("_agreed", "_born_ns", "_bound", "_restored", "_stored", "known_since", "stale")

    def __init__(self, known_since: int | None, bound: int, born_ns: int) -> None:
        self._restored = self._stored = known_since
        self._bound = bound
        self._born_ns = born_ns
        self._agreed = False
        self.known_since = known_since
        """The stamp since which this device has been there, 0 once it has agreed with the fleet's memory."""
        self.stale = True
        """Whether it has been there for less than the horizon, and not agreed."""

    def floor(self, clock: int, now_ns: int) -> int:
        """The clock below which this device forgets tombstones at `clock`. Brings `stale` up to date."""
        if not self._agreed:
            up_ms = (now_ns - self._born_ns) // MS
            boot = max(clock - (up_ms << LOGICAL_BITS), 0)
            since = self._restored
            if since is None or self._bound < horizon_of(boot):
                since = boot - boot % _HOUR + _HOUR
            self.known_since = since
            self.stale = since > horizon_of(clock)
        return 0 if self.stale else horizon_of(clock)

    def agree(self, floor: int, clock: int) -> None:
        """This device's map is equal to that of a neighbour with this floor."""
        if floor + _HOUR >= horizon_of(clock) > 0:
            self._agreed, self.stale, self.known_since = True, False, _AGREED

    def store(self) -> int | None:
        """What to store as `known_since`, or None where it is stored already."""
        if self.known_since == self._stored:
            return None
        self._stored = self.known_since
        return self._stored
