"""What was published, by whom and when: the truth that checkers hold the devices against."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Published"]


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
