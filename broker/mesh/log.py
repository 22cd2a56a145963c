"""The bounded log of kept bundles: what a neighbour that missed something can be given again.

Decides what is still there. Bundles leave in the order in which they came, when bytes or number exceed their bound;
an expired bundle keeps its header, since that alone closes its sequence elsewhere. `held_after` says from where on a
stream is complete here, which is what a digest claims.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import TYPE_CHECKING, Final

from broker.mesh.bundle import START
from broker.mesh.frame import NEVER
from broker.mesh.limits import LOG_BUNDLES_MAX, LOG_BYTES_MAX, MS, TICK_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker.mesh.bundle import Header, Message, Position, Stream

__all__ = ["Log", "Stored", "holes_between"]


_TICK_NS: Final = TICK_MS * MS


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


def holes_between(
    bundles: Iterable[Stored], after: Position, upto: Position
) -> list[tuple[Position, Position]]:
    """What is missing of (after, upto] where these bundles, in order, are there; as (after, up to)."""
    holes: list[tuple[Position, Position]] = []
    for stored in bundles:
        before = stored.header.before
        if before > after:
            holes.append((after, before))
        after = max(after, stored.header.position)
    if upto > after:
        holes.append((after, upto))
    return holes


class _Held:
    """What is held of one stream; positions in order, for ranges.

    The oldest nearly always goes first. It is then only passed over until as many have gone as are left: to close the
    gap each time moves all the others (measured: a log of 50,000 doubled what a publish costs).
    """

    __slots__ = ("_first", "_positions", "bundles")

    def __init__(self) -> None:
        self.bundles: dict[Position, Stored] = {}
        self._positions: list[Position] = []
        self._first = 0
        """Those before it are gone."""

    def add(self, position: Position, stored: Stored) -> None:
        self.bundles[position] = stored
        insort(self._positions, position, self._first)

    def remove(self, position: Position) -> Stored:
        at = bisect_left(self._positions, position, self._first)
        if at > self._first:
            del self._positions[at]
        else:
            self._first += 1
            if self._first * 2 > len(self._positions):
                del self._positions[: self._first]
                self._first = 0
        return self.bundles.pop(position)

    def between(self, after: Position, upto: Position) -> list[Stored]:
        """What lies in (after, upto], in order."""
        first = bisect_right(self._positions, after, self._first)
        end = bisect_right(self._positions, upto, first)
        return [self.bundles[position] for position in self._positions[first:end]]

    def newest_first(self) -> Iterator[Position]:
        """All positions, the last one first."""
        for at in range(len(self._positions) - 1, self._first - 1, -1):
            yield self._positions[at]


class Log:
    """Kept bundles by stream and position."""

    __slots__ = ("_bytes", "_expiry", "_order", "_streams", "evicted", "held_after")

    def __init__(self) -> None:
        self._streams: dict[Stream, _Held] = {}
        self._order: deque[tuple[Stream, Position]] = deque()
        self._expiry: dict[int, dict[Stored, None]] = {}
        """By tick: the held bundles that expire in it. No heap, since what is evicted has to leave it at once."""
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
            self._expiry.setdefault(stored.expires_ns // _TICK_NS, {})[stored] = None
        lost: list[Stream] = []
        while len(self._order) > LOG_BUNDLES_MAX or self._bytes > LOG_BYTES_MAX:
            lost.append(self._evict_oldest())
        return lost

    def lower_floor(self, stream: Stream) -> bool:
        """Bundles came back below the floor: lower it over those that join it. True when it moved."""
        floor = before = self.held_after.get(stream, START)
        held = self._streams.get(stream)
        while held is not None and floor in held.bundles:
            below = held.bundles[floor].header.before
            if below >= floor:
                break  # an impossible chain; what it claims counts for nothing
            floor = below
        self.held_after[stream] = floor
        return floor != before

    def expire(self, now_ns: int) -> None:
        """Let go of the bodies whose lifetime is over, a tick later at most; their headers stay."""
        for tick in [tick for tick in self._expiry if (tick + 1) * _TICK_NS <= now_ns]:
            for stored in self._expiry.pop(tick):
                self._bytes -= len(stored.body)
                stored.body = b""

    def between(self, stream: Stream, after: Position, upto: Position) -> list[Stored]:
        """The bundles of a stream in (after, upto], in order."""
        held = self._streams.get(stream)
        if held is None:
            return []
        return held.between(after, upto)

    def holes(
        self, stream: Stream, after: Position, upto: Position
    ) -> list[tuple[Position, Position]]:
        """What is not held of a stream in (after, upto]."""
        return holes_between(self.between(stream, after, upto), after, upto)

    def tail_after(self, stream: Stream, bytes_max: int, bundles_max: int) -> Position:
        """The position after which a stream's newest bundles are within these bounds together."""
        held = self._streams.get(stream)
        if held is None:
            return START
        for position in held.newest_first():
            bytes_max -= held.bundles[position].weight_bytes
            bundles_max -= 1
            if bytes_max < 0 or bundles_max < 0:
                return position
        return START

    def get(self, stream: Stream, position: Position) -> Stored | None:
        """A bundle, if it is held."""
        held = self._streams.get(stream)
        return held.bundles.get(position) if held is not None else None

    def replace_stream(self, stream: Stream, bundles: list[Stored]) -> None:
        """Put other bundles in the place of all that a stream holds."""
        held = self._streams.pop(stream, _Held())
        for stored in held.bundles.values():
            self._let_go(stored)
        self._order = deque(row for row in self._order if row[0] != stream)
        self.held_after.pop(stream, None)
        for stored in bundles:
            self.add(stored)

    def _evict_oldest(self) -> Stream:
        stream, position = self._order.popleft()
        self._let_go(self._streams[stream].remove(position))
        self.held_after[stream] = max(position, self.held_after.get(stream, START))
        self.evicted += 1
        return stream

    def _let_go(self, stored: Stored) -> None:
        self._bytes -= stored.held_bytes
        if stored.expires_ns is not None:
            tick = stored.expires_ns // _TICK_NS
            expiring = self._expiry.get(tick, {})
            expiring.pop(stored, None)
            if not expiring:
                self._expiry.pop(tick, None)
