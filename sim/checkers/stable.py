"""How long a kept message takes until all devices have heard it: the fleet's convergence time, after Jepsen's set-full.

Reports quantiles; a run in which nothing became stable has tested nothing, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sim.watcher import Watcher

if TYPE_CHECKING:
    from broker.mesh.events import Deliver
    from sim.checkers.delivery import Delivery
    from sim.ledger import Ledger

__all__ = ["Stable"]

QUANTILES: Final = (0.0, 0.5, 0.95, 0.99, 1.0)


class Stable(Watcher):
    """Stable latency. Watches before `delivery` does, so that it sees what is new."""

    def __init__(self, ledger: Ledger, delivery: Delivery) -> None:
        self._ledger = ledger
        self._delivery = delivery
        self._last_ns: dict[int, int] = {}

    def delivered(self, now_ns: int, device: str, event: Deliver) -> None:
        """Note when a device heard a message for the first time in its life."""
        known = self._delivery.hearing[device].known
        for row in event.messages:
            message = self._ledger.find(event.origin, row)
            if (
                message is not None
                and message.qos
                and not message.to
                and message.serial not in known
            ):
                self._last_ns[message.serial] = now_ns

    def quantiles_ms(self, core: list[str]) -> dict[str, float]:
        """Quantiles over the kept messages that every device of the core has heard; empty: there were none."""
        hearings = [self._delivery.hearing[name].known for name in core]
        latencies = sorted(
            self._last_ns[message.serial] - message.at_ns
            for message in self._ledger.messages
            if message.serial in self._last_ns and all(message.serial in h for h in hearings)
        )
        if not latencies:
            return {}
        last = len(latencies) - 1
        return {str(q): round(latencies[int(q * last)] / 1e6, 3) for q in QUANTILES}
