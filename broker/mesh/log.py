"""The bounded log of kept bundles: what a neighbour that missed something can be given again.

Decides what is still there. Bundles leave in the order in which they came, when bytes or number exceed their bound;
an expired bundle keeps its header, since that alone closes its sequence elsewhere. `held_after` says from where on a
stream is complete here, which is what a digest claims.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import TYPE_CHECKING

from broker.mesh.frame import NEVER
from broker.mesh.limits import LOG_BUNDLES_MAX, LOG_BYTES_MAX, MS

if TYPE_CHECKING:
    from broker.mesh.bundle import Header, Message, Position

__all__ = ["Log", "Stored"]

Stream = tuple[str, int]


class Stored:
    """A bundle in memory, shared by log and outboxes; relays never copy it."""

    __slots__ = ("body", "expires_ns", "head", "header", "hops", "messages", "weight_bytes")

    def __init__(
        self, header: Header, head: bytes, body: bytes, expires_ns: int | None, hops: int
    ) -> None:
        self.header = header
        self.head = head
        self.body = body
        self.expires_ns = expires_ns
        self.hops = hops
        self.messages: list[Message] | None = None
        """Decoded, where it is delivered within this turn."""
        self.weight_bytes = len(head) + header.body_bytes
        """What it costs to queue; stays as it is when the body is let go."""

    @property
    def held_bytes(self) -> int:
        """What it costs to hold now."""
        return len(self.head) + len(self.body)

    def remaining_ms(self, now_ns: int) -> int:
        """Lifetime left as it travels; NEVER when it does not expire."""
        if self.expires_ns is None:
            return NEVER
        left_ns = self.expires_ns - now_ns
        return -(-left_ns // MS) if left_ns > 0 else 0


class _Held:
    """What is held of one stream; positions in order, for ranges."""

    __slots__ = ("bundles", "positions")

    def __init__(self) -> None:
        self.bundles: dict[Position, Stored] = {}
        self.positions: list[Position] = []

    def add(self, position: Position, stored: Stored) -> None:
        self.bundles[position] = stored
        insort(self.positions, position)

    def remove(self, position: Position) -> Stored:
        del self.positions[bisect_left(self.positions, position)]
        return self.bundles.pop(position)


class Log:
    """Kept bundles by stream and position."""

    __slots__ = ("_bytes", "_expiry", "_order", "_serial", "_streams", "evicted", "held_after")

    def __init__(self) -> None:
        self._streams: dict[Stream, _Held] = {}
        self._order: deque[tuple[Stream, Position]] = deque()
        self._expiry: list[tuple[int, int, Stored]] = []
        self._serial = 0
        self._bytes = 0
        self.held_after: dict[Stream, Position] = {}
        """The last position of a stream that is no longer held; everything passed after it is."""
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._order)

    @property
    def size_bytes(self) -> int:
        """Header and body bytes held."""
        return self._bytes

    def add(self, stored: Stored) -> list[Stream]:
        """Hold a bundle. Returns the streams that lost an old one for it."""
        stream, position = stored.header.stream, stored.header.position
        held = self._streams.get(stream)
        if held is None:
            held = self._streams[stream] = _Held()
        if position in held.bundles:
            return []
        held.add(position, stored)
        self._order.append((stream, position))
        self._bytes += stored.held_bytes
        if stored.expires_ns is not None and stored.body:
            self._serial += 1
            heapq.heappush(self._expiry, (stored.expires_ns, self._serial, stored))
            if len(self._expiry) > 2 * len(self._order) + 1024:
                self._expiry = [row for row in self._expiry if self._holds(row[2])]
                heapq.heapify(self._expiry)
        lost: list[Stream] = []
        while len(self._order) > LOG_BUNDLES_MAX or self._bytes > LOG_BYTES_MAX:
            lost.append(self._evict_oldest())
        return lost

    def lower_floor(self, stream: Stream) -> bool:
        """Bundles came back below the floor: lower it over those that join it. True when it moved."""
        floor = before = self.held_after.get(stream, (0, 0))
        held = self._streams.get(stream)
        while held is not None and floor in held.bundles:
            below = held.bundles[floor].header.before
            if below >= floor:
                break  # an impossible chain; what it claims counts for nothing
            floor = below
        self.held_after[stream] = floor
        return floor != before

    def expire(self, now_ns: int) -> None:
        """Let go of the bodies whose lifetime is over; their headers stay."""
        while self._expiry and self._expiry[0][0] <= now_ns:
            stored = heapq.heappop(self._expiry)[2]
            if self._holds(stored):
                self._bytes -= len(stored.body)
            stored.body = b""

    def between(self, stream: Stream, after: Position, upto: Position) -> list[Stored]:
        """The bundles of a stream in (after, upto], in order."""
        held = self._streams.get(stream)
        if held is None:
            return []
        first, end = bisect_right(held.positions, after), bisect_right(held.positions, upto)
        return [held.bundles[position] for position in held.positions[first:end]]

    def tail_after(self, stream: Stream, bytes_max: int, bundles_max: int) -> Position:
        """The position after which a stream's newest bundles are within these bounds together."""
        held = self._streams.get(stream)
        if held is None:
            return (0, 0)
        for position in reversed(held.positions):
            bytes_max -= held.bundles[position].weight_bytes
            bundles_max -= 1
            if bytes_max < 0 or bundles_max < 0:
                return position
        return (0, 0)

    def get(self, stream: Stream, position: Position) -> Stored | None:
        """A bundle, if it is held."""
        held = self._streams.get(stream)
        return held.bundles.get(position) if held is not None else None

    def replace_stream(self, stream: Stream, bundles: list[Stored]) -> None:
        """Put other bundles in the place of all that a stream holds."""
        held = self._streams.pop(stream, _Held())
        self._bytes -= sum(stored.held_bytes for stored in held.bundles.values())
        self._order = deque(row for row in self._order if row[0] != stream)
        self.held_after.pop(stream, None)
        for stored in bundles:
            self.add(stored)

    def _evict_oldest(self) -> Stream:
        stream, position = self._order.popleft()
        stored = self._streams[stream].remove(position)
        self._bytes -= stored.held_bytes
        self.held_after[stream] = max(position, self.held_after.get(stream, (0, 0)))
        self.evicted += 1
        return stream

    def _holds(self, stored: Stored) -> bool:
        return self.get(stored.header.stream, stored.header.position) is stored
