"""What can be watched of a device from outside: its publishes, deliveries and decisions, as they happen.

Made for drills and measurements (`flockmq demo`). Methods are called synchronously on the event loop and must be
cheap; an observer never changes what the device does.
"""

from typing import Protocol

__all__ = ["Observer"]


class Observer(Protocol):
    """What a device tells whoever watches it. All times are monotonic nanoseconds."""

    def obstacle_published(self, key: str, published_ns: int) -> None:
        """An obstacle event was acknowledged. `key`: origin/id/version/state; the time is before its publish."""

    def obstacle_applied(self, origin: str, key: str, applied_ns: int, rebuild: bool) -> None:  # noqa: FBT001 - by position, as all of them
        """Another device's obstacle event was delivered and the world has taken it in."""

    def decided(self, latency_ns: int) -> None:
        """An inference is done; from capture to decision."""

    def forecast_judged(self, error: float, persistence_error: float, values: int) -> None:
        """A forecast's moment has come: sums of absolute errors over so many values."""

    def model_active(self, name: str, version: str, sha256: str) -> None:
        """A model version is in use from now on."""

    def link_changed(self, peer: str, up: bool, at_ns: int) -> None:  # noqa: FBT001 - by position, as all of them
        """A link to a neighbour is up, or down."""
