"""Hybrid logical clock: one integer that orders events across devices whose wall clocks disagree.

Decides the stamp of each message: `wall_ms << 16 | logical`. Ordered together with the origin it is unique.
Assumes that `now_ns` is monotonic and that the driver says what the wall clock shows and whether it is synchronised.
When the wall clock is wrong: a clock that jumps back keeps counting from its last stamp; one that wakes in 1970
takes the fleet's time from the first neighbour it hears; one that is far ahead is not followed by devices whose own
clock is synchronised. Merging never looks at wall time, so a wrong clock can only lose races, not state.

Source: Kulkarni et al., Logical Physical Clocks (2014); refusal of far clocks after CockroachDB and uhlc.
"""

from typing import Final

from broker.mesh.limits import (
    BOUND_SLACK_MS,
    CLOCK_AHEAD_MAX_MS,
    CLOCK_BOUND_MS,
    CLOCK_FOLLOWED_MAX,
    MS,
)

__all__ = ["LOGICAL_BITS", "HybridClock", "wall_ms_of"]

LOGICAL_BITS: Final = 16


def wall_ms_of(clock: int) -> int:
    """The wall part of a stamp, in milliseconds since 1970."""
    return clock >> LOGICAL_BITS


class HybridClock:
    """The clock of one device.

    Args:
        bound: The stored stamp below which this device gives none again; 0 on the first boot.
    """

    __slots__ = ("_last", "_offset_ms", "_same_until_ns", "bound", "synchronised")

    def __init__(self, bound: int = 0) -> None:
        self._last = bound
        self._offset_ms = 0
        self._same_until_ns = 0
        """Until then the wall clock's millisecond is the one of the last tick, or a past one."""
        self.bound = bound
        self.synchronised = False

    def set_wall(self, wall_ms: int, now_ns: int, *, synchronised: bool) -> None:
        """Tell what the wall clock shows at `now_ns`."""
        self._offset_ms = min(wall_ms, wall_ms_of(CLOCK_FOLLOWED_MAX)) - now_ns // MS
        self._same_until_ns = 0
        self.synchronised = synchronised

    def pass_bound(self, now_ns: int) -> None:
        """After a boot: a wall clock that shows less than the bound is wrong, and stamps above it may be lost."""
        if self.read(now_ns) == self._last > 0:
            self._last += BOUND_SLACK_MS << LOGICAL_BITS

    @property
    def last(self) -> int:
        """The newest stamp given or observed."""
        return self._last

    def tick(self, now_ns: int) -> int:
        """A new stamp, greater than every stamp given or observed before."""
        if now_ns < self._same_until_ns:
            self._last += 1
            return self._last
        now_ms = now_ns // MS
        self._same_until_ns = (now_ms + 1) * MS
        physical = (now_ms + self._offset_ms) << LOGICAL_BITS
        self._last = physical if physical > self._last else self._last + 1
        return self._last

    def read(self, now_ns: int) -> int:
        """The present, without giving a stamp: at least the newest stamp."""
        physical = (now_ns // MS + self._offset_ms) << LOGICAL_BITS
        return max(physical, self._last)

    def ahead_ms(self, stamp: int, now_ns: int) -> int:
        """How far `stamp` lies in this device's future, in milliseconds; negative when it is past."""
        return wall_ms_of(stamp) - (now_ns // MS + self._offset_ms)

    def observe(self, stamp: int, now_ns: int) -> None:
        """Follow another device's stamp, unless it is too far ahead to be trusted.

        An unsynchronised clock follows anyone: it has nothing better.
        """
        if not self._last < stamp < CLOCK_FOLLOWED_MAX:
            return
        if not self.synchronised or self.ahead_ms(stamp, now_ns) <= CLOCK_AHEAD_MAX_MS:
            self._last = stamp

    def store(self, *, with_others: bool) -> int | None:
        """The stamp to store as the bound under which no stamp is given after a restart, or None.

        It is stored whenever something else is (`with_others`), and otherwise at most every CLOCK_BOUND_MS, to spare
        the disk. A fresh message may therefore have had a later stamp; the hello of any neighbour makes that good.
        """
        if self._last <= self.bound:
            return None
        if not with_others and self._last - self.bound < CLOCK_BOUND_MS << LOGICAL_BITS:
            return None
        self.bound = self._last
        return self.bound
