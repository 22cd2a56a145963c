"""The bounded log of kept bundles: what a neighbour that missed something can be given again.

Decides what is still there. Bundles leave in the order in which they came, when bytes or number exceed their bound;
an expired bundle keeps its header, since that alone closes its sequence elsewhere. `held_after` says from where on a
stream is complete here, which is what a digest claims.
"""

from __future__ import annotations

import heapq
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
        """Decoded, while the bundle waits for its turn."""
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


class Log:
    """Kept bundles by stream and position."""

    __slots__ = ("_bytes", "_expiry", "_order", "_serial", "_streams", "evicted", "held_after")

    def __init__(self) -> None:
        self._streams: dict[Stream, dict[Position, Stored]] = {}
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
        held = self._streams.setdefault(stream, {})
        if position in held:
            return []
        held[position] = stored
        self._order.append((stream, position))
        self._bytes += stored.held_bytes
        if stored.expires_ns is not None and stored.body:
            self._serial += 1
            heapq.heappush(self._expiry, (stored.expires_ns, self._serial, stored))
        lost: list[Stream] = []
        while len(self._order) > LOG_BUNDLES_MAX or self._bytes > LOG_BYTES_MAX:
            lost.append(self._evict_oldest())
        return lost

    def lower_floor(self, stream: Stream) -> bool:
        """Bundles came back below the floor: lower it over those that join it. True when it moved."""
        floor = before = self.held_after.get(stream, (0, 0))
        held = self._streams.get(stream, {})
        while floor in held:
            floor = held[floor].header.before
        self.held_after[stream] = floor
        return floor != before

    def expire(self, now_ns: int) -> None:
        """Let go of the bodies whose lifetime is over; their headers stay."""
        while self._expiry and self._expiry[0][0] <= now_ns:
            stored = heapq.heappop(self._expiry)[2]
            held = self._streams.get(stored.header.stream, {})
            if held.get(stored.header.position) is stored:
                self._bytes -= len(stored.body)
            stored.body = b""

    def between(self, stream: Stream, after: Position, upto: Position) -> list[Stored]:
        """The bundles of a stream in (after, upto], in order."""
        held = self._streams.get(stream)
        if not held:
            return []
        return [held[position] for position in sorted(p for p in held if after < p <= upto)]

    def replace_stream(self, stream: Stream, bundles: list[Stored]) -> None:
        """Put other bundles in the place of all that a stream holds."""
        for position, stored in self._streams.pop(stream, {}).items():
            self._bytes -= stored.held_bytes
            self._order.remove((stream, position))
        self.held_after.pop(stream, None)
        for stored in bundles:
            self.add(stored)

    def _evict_oldest(self) -> Stream:
        stream, position = self._order.popleft()
        stored = self._streams[stream].pop(position)
        self._bytes -= stored.held_bytes
        self.held_after[stream] = max(position, self.held_after.get(stream, (0, 0)))
        self.evicted += 1
        return stream
