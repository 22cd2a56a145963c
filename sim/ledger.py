"""What was published, by whom and when, and whether it was acknowledged: the truth that checkers hold devices against.

A message is known by the serial number that begins its payload; a deletion, whose payload is empty, by its stamp.
It is acknowledged when its bundle is on its device's disk at the end of a turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.mesh.bundle import decode_body, decode_header
from sim.watcher import Death, Watcher

if TYPE_CHECKING:
    from broker.mesh.bundle import Message, Position
    from broker.mesh.events import Changes

__all__ = ["Ledger", "Published"]


@dataclass(slots=True)
class Published:
    """One message that a device took."""

    serial: int
    """From 1, in the order of all publishes of the simulation."""
    origin: str
    at_ns: int
    topic: str
    qos: int
    retained: bool
    priority: int
    lifetime_ms: int
    clock: int
    rank: int = 0
    deletes: bool = False
    to: str = ""
    """The one device that it is for; empty: all."""
    acknowledged: bool = False
    forgotten: bool = False
    """Its origin has lost the disk, or the part of it, on which this was."""
    places: list[tuple[int, Position]] = field(default_factory=list)
    """(lane, position) under which its origin stored it; another after its incarnation was raised."""

    def expired(self, now_ns: int) -> bool:
        """Whether its lifetime may be over somewhere."""
        return self.lifetime_ms > 0 and now_ns >= self.at_ns + self.lifetime_ms * 1_000_000


class Ledger(Watcher):
    """All messages of a simulation, by serial."""

    def __init__(self) -> None:
        self.messages: list[Published] = []
        self._by_stamp: dict[tuple[str, int], Published] = {}
        self._uncertain: dict[str, list[Published]] = {}

    @property
    def next_serial(self) -> int:
        """The serial of the message that is published next."""
        return len(self.messages) + 1

    def payload(self, size_bytes: int) -> bytes:
        """A payload for the next message, of about this size."""
        text = b"%d " % self.next_serial
        return text.ljust(size_bytes, b".")

    def find(self, origin: str, message: Message) -> Published | None:
        """What was published as this message, if anything was."""
        if not message.payload:
            return self._by_stamp.get((origin, message.clock))
        serial = message.payload.partition(b" ")[0]
        if not serial.isdigit() or not 0 < int(serial) <= len(self.messages):
            return None
        found = self.messages[int(serial) - 1]
        return found if (found.origin, found.topic) == (origin, message.topic) else None

    def published(self, now_ns: int, message: Published) -> None:
        """Enter a message."""
        self.messages.append(message)
        self._by_stamp[message.origin, message.clock] = message

    def committed(self, now_ns: int, device: str, changes: Changes) -> None:
        """Own bundles on a disk are acknowledged."""
        for own in changes.own:
            for row in decode_body(decode_header(own.head), own.body):
                message = self.find(device, row)
                if message is not None:
                    message.acknowledged = True
                    message.places.append((own.lane, own.position))
                    self._uncertain.setdefault(device, []).append(message)

    def checkpointed(self, device: str) -> None:
        """From now on a power cut takes nothing of it."""
        self._uncertain.pop(device, None)

    def booted(self, now_ns: int, device: str) -> None:
        """A boot syncs the disk."""
        self._uncertain.pop(device, None)

    def died(self, now_ns: int, device: str, how: Death) -> None:
        """What was on a lost disk has one holder less."""
        if how is Death.POWER:
            for message in self._uncertain.pop(device, []):
                message.forgotten = True
        elif how is Death.DISK:
            for message in self.messages:
                message.forgotten |= message.origin == device
