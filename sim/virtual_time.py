"""Virtual time: a heap of events, and a hash over all that happened and when.

Decides the order: everything by (time, serial), so a seed tells one story. Time stands still while something happens,
and jumps to what happens next.

Assumes that whoever is told something comes to rest: more than `events_max` in a virtual second ends the simulation.
"""

from __future__ import annotations

import heapq
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from broker.mesh.limits import MS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VirtualTime"]

START_NS: Final = 1_000 * MS
_SECOND_NS: Final = 1_000 * MS


class VirtualTime:
    """The time of one simulation.

    Args:
        events_max: How many there may be in a virtual second.
    """

    def __init__(self, events_max: int) -> None:
        self.now_ns = START_NS
        self._heap: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self._serial = 0
        self._events_max = events_max
        self._events_left = 0
        self._second_ends_ns = 0
        self._timeline = blake2b(digest_size=16)

    def at(self, at_ns: int, action: Callable[[Any], None], argument: Any = None) -> None:
        """Have something happen at a moment, or now if that is past."""
        self._serial += 1
        heapq.heappush(self._heap, (max(at_ns, self.now_ns), self._serial, action, argument))

    def after(self, ms: float, action: Callable[[Any], None], argument: Any = None) -> None:
        """Have something happen so many virtual milliseconds from now."""
        self.at(self.now_ns + int(ms * MS), action, argument)

    def run(self, ms: float) -> None:
        """Let `ms` virtual milliseconds pass."""
        self.run_until(self.now_ns + int(ms * MS))

    def run_until(self, end_ns: int) -> None:
        """Let virtual time pass up to a moment.

        Raises:
            RuntimeError: Too much happens: it would never come to rest.
        """
        heap = self._heap
        while heap and heap[0][0] <= end_ns:
            self.now_ns, _, action, argument = heapq.heappop(heap)
            if self.now_ns >= self._second_ends_ns:
                self._second_ends_ns = self.now_ns + _SECOND_NS
                self._events_left = self._events_max
            self._events_left -= 1
            if not self._events_left:
                raise RuntimeError("the devices talk without end")
            action(argument)
        self.now_ns = end_ns

    def note(self, text: str) -> None:
        """Put something into the timeline."""
        self.note_bytes(text.encode())

    def note_bytes(self, data: bytes) -> None:
        """The same, for what happens often."""
        self._timeline.update(b"%d %s\n" % (self.now_ns, data))

    def timeline(self) -> str:
        """A hash over all that happened and when."""
        return self._timeline.copy().hexdigest()
