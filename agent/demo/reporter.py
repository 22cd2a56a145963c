"""What a device's process tells its watcher: an observer that writes lines.

Decides that records of one turn of the event loop leave together, by one `write` at the end of
that turn, without any buffer in between: what was written survives the process being killed.
Assumes the watcher reads on; a full pipe holds the device up, as the pipe is the only queue.
On failure: a watcher that is gone is noticed by `gone`, and nothing is written any more.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from agent.demo.records import (
    Active,
    Applied,
    Decided,
    Judged,
    LinkChanged,
    Published,
    Record,
    write_records,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Reporter"]


class Reporter:
    """Implements `agent.observer.Observer`.

    Args:
        descriptor: Where lines go; blocking.
        gone: Called once when nobody reads there any more.
    """

    def __init__(self, descriptor: int, gone: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._gone = gone
        self._broken = False
        self._records: list[Record] = []

    def tell(self, record: Record) -> None:
        """Write this at the end of this turn."""
        if not self._records:
            asyncio.get_running_loop().call_soon(self.flush)
        self._records.append(record)

    def flush(self) -> None:
        """Write what there is."""
        records, self._records = self._records, []
        if not records or self._broken:
            return
        line = memoryview(write_records(records))
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:
            self._broken = True
            self._gone()

    # Observer.

    def obstacle_published(self, key: str, published_ns: int) -> None:
        """An own obstacle event was acknowledged."""
        self.tell(Published(key, published_ns, time.monotonic_ns()))

    def obstacle_applied(self, origin: str, key: str, applied_ns: int, rebuild: bool) -> None:  # noqa: FBT001 - the observer's shape
        """Another device's obstacle event is in the world."""
        self.tell(Applied(origin, key, applied_ns, rebuild))

    def decided(self, latency_ns: int) -> None:
        """An inference is done."""
        self.tell(Decided(time.monotonic_ns(), latency_ns))

    def forecast_judged(self, error: float, persistence_error: float, values: int) -> None:
        """A forecast's moment has come."""
        self.tell(Judged(error, persistence_error, values))

    def model_active(self, name: str, version: str, sha256: str) -> None:
        """A model version is in use from now on."""
        self.tell(Active(name, version, sha256))

    def link_changed(self, peer: str, up: bool, at_ns: int) -> None:  # noqa: FBT001 - the observer's shape
        """A link is up, or down."""
        self.tell(LinkChanged(peer, up, at_ns))
