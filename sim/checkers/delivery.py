"""Nothing is delivered twice as news, and nothing that was never published.

Keeps what each device has heard in its life, which other checkers look at. A life ends with the disk. A power cut
takes back what was heard since the last checkpoint, so that may be heard again. So may retained values where the map
has evicted some. Memory (`rebuild`) is no delivery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.checkers.checker import Checker
from sim.watcher import Death

if TYPE_CHECKING:
    from broker.mesh.events import Deliver
    from sim.checkers.evictions import Evictions
    from sim.ledger import Ledger

__all__ = ["Delivery", "Hearing"]


class Hearing:
    """What one device has heard."""

    __slots__ = ("born_ns", "doubtful", "known", "news", "this_boot", "uncertain")

    def __init__(self, born_ns: int) -> None:
        self.born_ns = born_ns
        self.news: set[int] = set()
        """Serials heard as news in this life."""
        self.known: set[int] = set()
        """Serials heard at all in this life."""
        self.this_boot: dict[int, int] = {}
        """Serials heard since the last boot, and when: these are in its log, unless that is full."""
        self.uncertain: list[int] = []
        """Serials heard as news since the last checkpoint."""
        self.doubtful: set[int] = set()
        """Serials that were stored as passed in the turn in which the device died."""


class Delivery(Checker):
    """Exactly once: the half that says at most once."""

    promise = "nothing is delivered twice"

    def __init__(self, ledger: Ledger, evictions: Evictions) -> None:
        super().__init__()
        self._ledger = ledger
        self._evictions = evictions
        self.hearing: dict[str, Hearing] = {}

    def booted(self, now_ns: int, device: str) -> None:
        """A boot, and the first one begins a life."""
        hearing = self.hearing.setdefault(device, Hearing(now_ns))
        # Neither fresh messages nor calls are remembered over a boot.
        messages = self._ledger.messages
        hearing.news -= {
            s for s in hearing.this_boot if not messages[s - 1].qos or messages[s - 1].to
        }
        hearing.this_boot = {}
        hearing.uncertain = []

    def checkpointed(self, device: str) -> None:
        """A power cut takes nothing of it back."""
        self.hearing[device].uncertain.clear()

    def died(self, now_ns: int, device: str, how: Death) -> None:
        """What is taken back may come again."""
        if how is Death.DISK:
            del self.hearing[device]
        elif how is Death.POWER:
            hearing = self.hearing[device]
            hearing.news.difference_update(hearing.uncertain)
            hearing.known.difference_update(hearing.uncertain)

    def delivered(self, now_ns: int, device: str, event: Deliver) -> None:
        """Hold each message against what was heard before."""
        hearing = self.hearing[device]
        for row in event.messages:
            message = self._ledger.find(event.origin, row)
            if message is None:
                text = (
                    f"{row.topic} of {event.origin} with {row.payload[:20]!r} was never published"
                )
                self.violated(now_ns, device, text)
                continue
            serial = message.serial
            if not event.rebuild:
                evicted = message.retained and device in self._evictions.devices
                if serial in hearing.news and not evicted:
                    self.violated(now_ns, device, f"{serial} of {event.origin} came twice as news")
                hearing.news.add(serial)
                hearing.uncertain.append(serial)
            hearing.known.add(serial)
            hearing.this_boot.setdefault(serial, now_ns)

    def unheard(self, device: str, event: Deliver) -> None:
        """A device died after it had stored this as passed, and before anybody heard it."""
        for row in event.messages:
            message = self._ledger.find(event.origin, row)
            if message is not None:
                self.hearing[device].doubtful.add(message.serial)
