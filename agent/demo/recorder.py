"""Takes what the devices tell and files it: the book, the run's figures, the last seconds' figures.

Decides nothing. Assumes records of one device come in order. On failure: nothing can fail; what
was never told stays None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.demo.figures import Histogram, Recent
from agent.demo.records import (
    Active,
    Applied,
    Decided,
    Judged,
    LinkChanged,
    Published,
    Ready,
    Record,
)

if TYPE_CHECKING:
    from agent.demo.ledger import Ledger

__all__ = ["Recorder"]

RECENT_NS: Final = 10_000_000_000
"""The table's latencies are of the last ten seconds: a few hundred values."""


class Recorder:
    """Everything that was told.

    Args:
        devices: All of the fleet.
        ledger: The book.
    """

    def __init__(self, devices: tuple[str, ...], ledger: Ledger) -> None:
        self.ledger = ledger
        self.ready: set[str] = set()
        self.active: dict[str, Active] = {}
        """By device: the model that it uses."""
        self.first_forecast_ns: int | None = None
        self.decided = Histogram()
        self.recent_applied: dict[str, Recent] = {}
        """By device: obstacle to state."""
        self.recent_decided: dict[str, Recent] = {}
        """By device: capture to decision."""
        self.judged = 0
        """Forecasts whose moment came; each is of several values."""
        self.judged_values = 0
        self.error = 0.0
        self.persistence_error = 0.0
        self._devices = devices
        self.start_recent()

    def start_recent(self) -> None:
        """Begin the last seconds anew."""
        self.recent_applied = {name: Recent(RECENT_NS) for name in self._devices}
        self.recent_decided = {name: Recent(RECENT_NS) for name in self._devices}

    def forget(self, device: str) -> None:
        """A device's life has ended: it runs nothing."""
        self.ready.discard(device)
        self.active.pop(device, None)

    def record(self, device: str, record: Record) -> None:
        """Take in one record."""
        match record:
            case Applied(origin, key, applied_ns, rebuild):
                self.ledger.applied(device, key, origin, applied_ns, rebuild=rebuild)
                if not rebuild:
                    published_ns = self.ledger.published_ns(key)
                    if published_ns is not None:
                        self.recent_applied[device].add(applied_ns, applied_ns - published_ns)
            case Published(key, published_ns, acknowledged_ns):
                self.ledger.acknowledged(key, device, published_ns, acknowledged_ns)
            case Decided(at_ns, latency_ns):
                self.decided.add(latency_ns)
                self.recent_decided[device].add(at_ns, latency_ns)
                if self.first_forecast_ns is None:
                    self.first_forecast_ns = at_ns
            case Judged(error, persistence_error, values):
                self.judged += 1
                self.judged_values += values
                self.error += error
                self.persistence_error += persistence_error
            case LinkChanged(peer, up, at_ns):
                self.ledger.link_changed(device, peer, at_ns, up=up)
            case Active():
                self.active[device] = record
            case Ready():
                self.ready.add(device)
            case _:
                raise AssertionError(f"{record} is not for the record")
