"""What waits to be sent to one neighbour: by priority, bounded, fresh values conflated, expired ones dropped.

Decides the order of bundles on one link. Assumes that whatever it drops for lack of room is fresh (and may be
skipped), kept (and comes back by digest) or unicast (and is sent again by its origin), so no promise rests on its
size. Bundles are shared, not copied.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from broker.mesh.bundle import PRIORITIES, is_kept
from broker.mesh.limits import OUTBOX_BUNDLES_MAX, OUTBOX_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.mesh.bundle import Stream
    from broker.mesh.log import Stored

__all__ = ["Outbox"]


class _Slot:
    """A place in a queue; a newer fresh bundle takes the older one's place."""

    __slots__ = ("stored",)

    def __init__(self, stored: Stored) -> None:
        self.stored = stored


class Outbox:
    """Bundles queued for one neighbour."""

    __slots__ = (
        "_bytes",
        "_count",
        "_flights",
        "_fresh",
        "_queues",
        "conflated",
        "dropped",
        "expired",
    )

    def __init__(self) -> None:
        self._queues: list[deque[_Slot]] = [deque() for _ in range(PRIORITIES)]
        self._fresh: dict[Stream, _Slot] = {}
        self._flights: set[tuple[str, int, str, int]] = set()
        self._bytes = 0
        self._count = 0
        self.conflated = 0
        self.dropped = 0
        self.expired = 0

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """Header and body bytes queued."""
        return self._bytes

    def add(self, stored: Stored) -> None:
        """Queue a bundle; the least urgent gives way when there is no room.

        Unicast that is queued already is not queued again: its origin resends what waits here for long.
        """
        if stored.header.to:
            if stored.header.flight in self._flights:
                return
            self._flights.add(stored.header.flight)
        lane = stored.header.lane
        fresh = not is_kept(lane)
        if fresh and self._conflate(stored):
            return
        slot = _Slot(stored)
        if fresh:
            self._fresh[stored.header.stream] = slot
        self._queues[lane >> 1].append(slot)
        self._bytes += stored.weight_bytes
        self._count += 1
        while self._bytes > OUTBOX_BYTES_MAX or self._count > OUTBOX_BUNDLES_MAX:
            self._drop_least_urgent()

    def pop(self, priorities: Iterable[int], now_ns: int) -> Stored | None:
        """The next bundle to send, or None. Expired fresh ones are passed over, kept ones travel as headers."""
        for priority in priorities:
            queue = self._queues[priority]
            while queue:
                stored = self._take(queue)
                if is_kept(stored.header.lane) or stored.remaining_ms(now_ns):
                    return stored
                self.expired += 1
        return None

    def clear(self) -> None:
        """Forget everything queued."""
        for queue in self._queues:
            queue.clear()
        self._fresh.clear()
        self._flights.clear()
        self._bytes = self._count = 0

    def _conflate(self, stored: Stored) -> bool:
        """Whether it took the place of a queued fresh bundle of its stream whose topics it covers."""
        slot = self._fresh.get(stored.header.stream)
        if slot is None:
            return False
        older, newer = slot.stored.header, stored.header
        if older.position >= newer.position or not set(older.topics) <= set(newer.topics):
            return False
        self._bytes += stored.weight_bytes - slot.stored.weight_bytes
        slot.stored = stored
        self.conflated += 1
        return True

    def _take(self, queue: deque[_Slot]) -> Stored:
        slot = queue.popleft()
        stored = slot.stored
        self._bytes -= stored.weight_bytes
        self._count -= 1
        if stored.header.to:
            self._flights.discard(stored.header.flight)
        if self._fresh.get(stored.header.stream) is slot:
            del self._fresh[stored.header.stream]
        return stored

    def _drop_least_urgent(self) -> None:
        queue = next(queue for queue in reversed(self._queues) if queue)
        self._take(queue)
        self.dropped += 1
