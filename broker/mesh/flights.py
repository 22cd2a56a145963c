"""This device's own unicast while it is under way: numbers, bounds, round trips and when to send again.

A flight is one unicast bundle from its publish until its destination has acknowledged it or its deadline is over.
Numbers count per destination over all priorities. A destination tells copies within a window of numbers, so the oldest
flight may not fall behind the newest by more: a publisher that runs so far ahead is told `MeshFull`, as it is when too
many flights or bytes are under way.

The resend timer follows the measured round trip (RFC 6298) and doubles with each silence. Only bundles that were sent
once are measured, since an answer does not say which copy it answers; until one of those is answered, the next flights
wait as long as the last had to (Karn and Partridge, 1987).
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from broker.mesh.bundle import Header, body_bytes_estimate, encode_body, lane_of
from broker.mesh.events import MeshFull
from broker.mesh.limits import (
    BUNDLE_BYTES_MAX,
    BUNDLE_MESSAGES_MAX,
    MS,
    UNICAST_ALL_BYTES_MAX,
    UNICAST_ALL_FLIGHTS_MAX,
    UNICAST_BYTES_MAX,
    UNICAST_DESTINATIONS_MAX,
    UNICAST_FLIGHTS_MAX,
    UNICAST_RESEND_FIRST_MS,
    UNICAST_RESEND_MAX_MS,
    UNICAST_RESEND_MIN_MS,
    WINDOW_NUMBERS,
)
from broker.mesh.log import Stored
from broker.mesh.tags import sealed

if TYPE_CHECKING:
    from broker.mesh.bundle import Message
    from broker.mesh.tags import Seals

__all__ = ["Flight", "Flights"]

_RTT_WEIGHT: Final = 8
_DEVIATION_WEIGHT: Final = 4
"""Weights of the past in the smoothed round trip and its deviation (RFC 6298)."""
_DEVIATIONS: Final = 4


class Flight:
    """One unicast bundle under way."""

    __slots__ = (
        "due_ns",
        "expires_ns",
        "messages",
        "number",
        "peer",
        "priority",
        "refused",
        "retries",
        "sends",
        "sent_ns",
        "silences",
        "size_bytes",
        "stored",
        "to",
        "tried",
    )

    def __init__(self, to: str, number: int, priority: int, expires_ns: int) -> None:
        self.to = to
        self.number = number
        self.priority = priority
        self.expires_ns = expires_ns
        self.messages: list[Message] = []
        self.size_bytes = 0
        self.stored: Stored | None = None
        """Encoded when it first leaves: until a neighbour was met the incarnation may still change."""
        self.peer = ""
        """The neighbour that has it; empty while there is none to give it to."""
        self.tried: set[str] = set()
        """Neighbours that refused it or did not answer in this round."""
        self.sends = 0
        self.sent_ns = 0
        self.silences = 0
        """Timers that ran out; each doubles the next."""
        self.retries = 0
        self.refused = False
        """Whether the last word was that there is no way."""
        self.due_ns: int | None = None

    def has_room(self, size_bytes: int) -> bool:
        """Whether a message of this size still fits."""
        return (
            self.size_bytes + size_bytes <= BUNDLE_BYTES_MAX
            and len(self.messages) < BUNDLE_MESSAGES_MAX
        )

    def encode(self, origin: str, incarnation: int, seals: Seals | None) -> Stored:
        """The bundle, made at the first call."""
        if self.stored is None:
            body, compressed = encode_body(self.messages)
            header = Header(
                origin,
                lane_of(self.priority, kept=True),
                incarnation,
                self.number,
                len(self.messages),
                self.messages[-1].clock,
                self.messages[0].lifetime_ms,
                len(body),
                to=self.to,
                compressed=compressed,
            )
            self.stored = Stored(*sealed(header, body, seals), body, self.expires_ns, 0)
        return self.stored


class _Destination:
    """What is under way to one device, and how far away it is."""

    __slots__ = ("backoff", "deviation_ns", "flights", "following", "rtt_ns", "size_bytes")

    def __init__(self, following: int) -> None:
        self.following = following
        """The next number."""
        self.flights: dict[int, Flight] = {}
        self.size_bytes = 0
        self.rtt_ns: int | None = None
        self.deviation_ns = 0
        self.backoff = 0
        """How often the timer had doubled when the last answer came; 0 after one to a bundle that was sent once."""

    def resend_ns(self) -> int:
        """How long to wait for the first answer."""
        if self.rtt_ns is None:
            return UNICAST_RESEND_FIRST_MS * MS
        return max(self.rtt_ns + _DEVIATIONS * self.deviation_ns, UNICAST_RESEND_MIN_MS * MS)

    def measure(self, rtt_ns: int) -> None:
        if self.rtt_ns is None:
            self.rtt_ns, self.deviation_ns = rtt_ns, rtt_ns // 2
            return
        off_ns = abs(self.rtt_ns - rtt_ns)
        self.deviation_ns += (off_ns - self.deviation_ns) // _DEVIATION_WEIGHT
        self.rtt_ns += (rtt_ns - self.rtt_ns) // _RTT_WEIGHT


class Flights:
    """All own unicast under way."""

    __slots__ = (
        "_count",
        "_destinations",
        "_floor",
        "_heap",
        "_open",
        "_opened",
        "_serial",
        "size_bytes",
    )

    def __init__(self) -> None:
        self._destinations: dict[str, _Destination] = {}
        self._floor = 0
        """Above every number of a destination that was forgotten, so that none is given twice."""
        self._open: dict[tuple[str, int, int], Flight] = {}
        self._opened: list[Flight] = []
        self._heap: list[tuple[int, int, Flight]] = []
        self._serial = 0
        self._count = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return self._count

    def add(self, to: str, priority: int, message: Message, now_ns: int) -> None:
        """Put a message into this turn's bundle for its destination, priority and lifetime.

        Raises:
            MeshFull: Too much is under way, to this device or in all.
        """
        size_bytes = body_bytes_estimate(message.topic, message.payload)
        key = (to, priority, message.lifetime_ms)
        flight = self._open.get(key)
        opens = flight is None or not flight.has_room(size_bytes)
        self._check_room(to, size_bytes, opens=opens)
        if flight is None or opens:
            destination = self._destination(to)
            number = destination.following
            destination.following += 1
            flight = Flight(to, number, priority, now_ns + message.lifetime_ms * MS)
            destination.flights[number] = self._open[key] = flight
            self._opened.append(flight)
            self._count += 1
        flight.messages.append(message)
        flight.size_bytes += size_bytes
        self._destinations[to].size_bytes += size_bytes
        self.size_bytes += size_bytes

    def seal(self) -> list[Flight]:
        """End the turn: the flights that begin with it."""
        opened, self._opened = self._opened, []
        self._open.clear()
        return opened

    def get(self, to: str, number: int) -> Flight | None:
        """A flight that is still under way."""
        destination = self._destinations.get(to)
        return destination.flights.get(number) if destination is not None else None

    def stranded(self, to: str) -> list[Flight]:
        """The flights to a device that no neighbour has."""
        destination = self._destinations.get(to)
        flights = destination.flights.values() if destination is not None else ()
        return [flight for flight in flights if not flight.peer]

    def given_to(self, peer: str) -> list[Flight]:
        """The flights that this neighbour has."""
        return [
            flight
            for destination in self._destinations.values()
            for flight in destination.flights.values()
            if flight.peer == peer
        ]

    def answered(self, flight: Flight, now_ns: int) -> None:
        """The destination's acknowledgement is here."""
        destination = self._destinations[flight.to]
        if flight.sends == 1:
            destination.measure(now_ns - flight.sent_ns)
            destination.backoff = 0
        else:
            destination.backoff = flight.silences
        self.end(flight)

    def end(self, flight: Flight) -> None:
        """A flight is over."""
        destination = self._destinations[flight.to]
        del destination.flights[flight.number]
        destination.size_bytes -= flight.size_bytes
        self.size_bytes -= flight.size_bytes
        self._count -= 1
        flight.due_ns = None

    def wait(self, flight: Flight, now_ns: int) -> None:
        """Have it fall due when an answer is late, and at its deadline."""
        destination = self._destinations[flight.to]
        late_ns = destination.resend_ns() << min(max(flight.silences, destination.backoff), 16)
        flight.due_ns = min(now_ns + min(late_ns, UNICAST_RESEND_MAX_MS * MS), flight.expires_ns)
        self._serial += 1
        heapq.heappush(self._heap, (flight.due_ns, self._serial, flight))

    def next_ns(self) -> int | None:
        """When the next flight falls due."""
        heap = self._heap
        while heap and heap[0][2].due_ns != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now_ns: int) -> list[Flight]:
        """The flights that are due now; each is due once until it waits again."""
        flights = []
        while (at_ns := self.next_ns()) is not None and at_ns <= now_ns:
            flight = heapq.heappop(self._heap)[2]
            flight.due_ns = None
            flights.append(flight)
        return flights

    def _check_room(self, to: str, size_bytes: int, *, opens: bool) -> None:
        if self.size_bytes + size_bytes > UNICAST_ALL_BYTES_MAX or (
            opens and self._count >= UNICAST_ALL_FLIGHTS_MAX
        ):
            raise MeshFull("too much unicast is under way; wait for answers")
        destination = self._destinations.get(to)
        if destination is None:
            return
        oldest = next(iter(destination.flights), destination.following)
        if destination.size_bytes + size_bytes > UNICAST_BYTES_MAX or (
            opens
            and (
                len(destination.flights) >= UNICAST_FLIGHTS_MAX
                or destination.following - oldest >= WINDOW_NUMBERS
            )
        ):
            raise MeshFull(f"too much is under way to {to}; wait for its answers")

    def _destination(self, to: str) -> _Destination:
        destination = self._destinations.get(to)
        if destination is None:
            if len(self._destinations) >= UNICAST_DESTINATIONS_MAX:
                self._forget_one()
            destination = self._destinations[to] = _Destination(self._floor + 1)
        return destination

    def _forget_one(self) -> None:
        """Let go of the destination that has been known for longest and has nothing under way."""
        name = next(name for name, known in self._destinations.items() if not known.flights)
        self._floor = max(self._floor, self._destinations.pop(name).following - 1)
