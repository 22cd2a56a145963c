"""What a simulation tells those who watch it. Checkers and recorders take what they need and change nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.mesh.events import Changes, Deliver, Gap
    from sim.ledger import Published

__all__ = ["Death", "Watcher"]


class Death(StrEnum):
    """How a device ended."""

    KILLED = "killed"
    """The process; its disk keeps every commit."""
    POWER = "power"
    """The power; the commits since the last checkpoint are gone."""
    DISK = "disk"
    """The disk; nothing is left."""


class Watcher:
    """Hears everything; each method does nothing by itself."""

    def published(self, now_ns: int, message: Published) -> None:
        """A device took a message. It is not stored yet."""

    def committed(self, now_ns: int, device: str, changes: Changes) -> None:
        """A device stored what a turn changed."""

    def checkpointed(self, device: str) -> None:
        """What a device stored so far survives a power cut."""

    def delivered(self, now_ns: int, device: str, event: Deliver) -> None:
        """A device's subscribers heard something."""

    def unheard(self, device: str, event: Deliver) -> None:
        """A device died after it had stored this as passed, and before anybody heard it."""

    def lost(self, now_ns: int, device: str, gap: Gap) -> None:
        """A device reported a loss."""

    def dying(self, device: str) -> None:
        """A device is about to end."""

    def died(self, now_ns: int, device: str, how: Death) -> None:
        """A device ended."""

    def booted(self, now_ns: int, device: str) -> None:
        """A device begins."""
