"""Devices that this one could dial: name and address, where it was learned, and what came of it.

Decides which address of a device counts (the one configured before a seed's before one announced), and who is
forgotten: at most KNOWN_MAX are known, and when there is no room the announced one that has been known for longest
without ever having answered makes way. So a flood of invented announcements takes no place from a device that is there.
If all have answered, the new one is refused. Both are counted.

Assumes that names are checked before, and times monotonic. Pure: no clock, no sockets.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.link import Neighbour

__all__ = ["KNOWN_MAX", "AddressBook", "Entry", "Source"]

KNOWN_MAX: Final = 256
"""Several floors of devices on one network. About 500 bytes each; a choice among so many takes 0.3 ms."""


class Source(IntEnum):
    """Where an address was learned; the lower counts more."""

    CONFIGURED = 0
    SEED = 1
    MDNS = 2


@dataclass(slots=True)
class Entry:
    """One device."""

    neighbour: Neighbour
    source: Source
    known_s: float
    """Since when."""
    answered: bool = False
    """There was a link to it, or it has told its name."""
    gone: bool = False
    """It is announced no more; forgotten as soon as there is no link to it."""
    rtt_ms: float | None = None
    measured_s: float | None = None
    """When it was last asked; None: never."""
    away_until_s: float = 0.0
    """It does not answer, and is not expected to before."""


class AddressBook:
    """Everybody known.

    Args:
        device: This device's id, which is never in the book.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._entries: dict[str, Entry] = {}
        self.evicted = 0
        """Made way for others without ever having answered."""
        self.refused = 0
        """Found no room."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def get(self, name: str) -> Entry | None:
        """What is known of a device."""
        return self._entries.get(name)

    def learn(self, neighbour: Neighbour, source: Source, now_s: float) -> Entry | None:
        """Take an address. Returns the entry if that is news: the device is new, is back, or listens elsewhere."""
        name = neighbour.name
        if name == self._device:
            return None
        known = self._entries.get(name)
        if known is not None:
            news = known.gone or known.neighbour != neighbour
            if source > known.source and not known.gone:
                return None
            known.neighbour, known.source, known.gone = neighbour, source, False
            if news:
                known.away_until_s = 0.0
            return known if news else None
        if len(self._entries) >= KNOWN_MAX and not self._make_room():
            self.refused += 1
            return None
        self._entries[name] = entry = Entry(neighbour, source, now_s)
        return entry

    def withdraw(self, name: str, source: Source) -> None:
        """A device is announced no more, or a seed's address is somebody else's now."""
        entry = self._entries.get(name)
        if entry is not None and entry.source == source:
            entry.gone = True

    def forget(self, name: str) -> None:
        """Strike a device out."""
        self._entries.pop(name, None)

    def _make_room(self) -> bool:
        for name, entry in self._entries.items():
            if entry.source is Source.MDNS and not entry.answered:
                del self._entries[name]
                self.evicted += 1
                return True
        return False
