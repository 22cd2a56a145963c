"""Kept messages of one publisher in one lane are heard in the order in which they were published.

Of fresh ones, an older value of a topic never follows a newer one. A device that lost its disk, or the
end of it, begins anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.checkers.checker import Checker
from sim.watcher import Death

if TYPE_CHECKING:
    from broker.mesh.events import Deliver
    from sim.ledger import Ledger

__all__ = ["Order"]


class Order(Checker):
    """Order per publisher and lane."""

    promise = "order per publisher and lane"

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._last: dict[str, dict[tuple[str, int], int]] = {}
        self._newest: dict[str, dict[str, tuple[int, str]]] = {}

    def booted(self, now_ns: int, device: str) -> None:
        """Fresh values are not remembered over a boot."""
        self._newest[device] = {}
        self._last.setdefault(device, {})

    def died(self, now_ns: int, device: str, how: Death) -> None:
        """What is heard again is heard in order again."""
        if how is not Death.KILLED:
            self._last[device] = {}

    def delivered(self, now_ns: int, device: str, event: Deliver) -> None:
        """Hold each message against the one before it."""
        if event.rebuild:
            return
        for row in event.messages:
            message = self._ledger.find(event.origin, row)
            if message is None or message.retained or message.to:
                continue  # retained values may come by reconciliation, ahead of their bundle
            if message.qos:
                stream = (event.origin, message.priority)
                before = self._last[device].get(stream, 0)
                if message.serial < before:
                    text = f"{message.serial} of {event.origin} came after {before}"
                    self.violated(now_ns, device, text)
                self._last[device][stream] = message.serial
            else:
                newest = self._newest[device].get(message.topic, (0, ""))
                stamp = (row.clock, event.origin)
                if stamp <= newest:
                    text = f"an older value of {message.topic} came after a newer one"
                    self.violated(now_ns, device, text)
                self._newest[device][message.topic] = stamp
