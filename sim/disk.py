"""What a device's store would keep, and what a power cut takes of it.

Decides nothing: it is the store's promise as a model. A commit survives the process; a checkpoint makes everything
committed before survive a power cut. Booting checkpoints, since the incarnation must never be given twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from broker.mesh.events import Restored

if TYPE_CHECKING:
    from broker.mesh.bundle import Position
    from broker.mesh.events import Changes, OwnBundle
    from broker.mesh.retained import Entry, Proof

__all__ = ["Disk"]


@dataclass(slots=True)
class _Content:
    incarnation: int
    bound: int = 0
    known_since: int | None = None
    own: dict[tuple[int, Position], OwnBundle] = field(default_factory=dict)
    passed: dict[tuple[str, int], Position] = field(default_factory=dict)
    retained: dict[str, Entry] = field(default_factory=dict)
    proofs: dict[str, Proof] = field(default_factory=dict)

    def copy(self) -> _Content:
        return replace(
            self,
            own=dict(self.own),
            passed=dict(self.passed),
            retained=dict(self.retained),
            proofs=dict(self.proofs),
        )

    def apply(self, changes: Changes) -> None:
        if changes.incarnation is not None:
            self.incarnation = changes.incarnation
        if changes.clock_bound is not None:
            self.bound = changes.clock_bound
        if changes.known_since is not None:
            self.known_since = changes.known_since
        if changes.own_replaced:
            self.own.clear()
        for own in changes.own:
            self.own[own.lane, own.position] = own
        for lane, upto in changes.own_held.items():
            self.own = {k: v for k, v in self.own.items() if k[0] != lane or k[1] > upto}
        self.passed.update(changes.passed)
        for topic, entry in changes.retained.items():
            if entry is None:
                self.retained.pop(topic, None)
            else:
                self.retained[topic] = entry
            self.proofs.pop(topic, None)
        self.proofs.update(changes.proofs)


class Disk:
    """The memory of one device.

    Args:
        first_incarnation: Where a device without memory begins.
    """

    def __init__(self, first_incarnation: int = 1) -> None:
        self._first_boot = True
        self._content = _Content(first_incarnation - 1)
        self._uncertain: list[Changes] = []
        self._synced = self._content.copy()

    def commit(self, changes: Changes) -> None:
        """Take what a turn changed."""
        self._content.apply(changes)
        self._uncertain.append(changes)

    def checkpoint(self) -> None:
        """Sync: what was committed survives a power cut from now on."""
        for changes in self._uncertain:
            self._synced.apply(changes)
        self._uncertain.clear()

    def cut_power(self) -> None:
        """Lose what was committed since the last checkpoint."""
        self._content = self._synced.copy()
        self._uncertain.clear()

    def settle(self) -> None:
        """Be as the disk of a device that has been there for longer than deletions are remembered."""
        self._content.known_since = self._synced.known_since = 0

    def boot(self) -> Restored:
        """Begin a new incarnation, and give back what is remembered."""
        first, self._first_boot = self._first_boot, False
        content = self._content
        content.incarnation += 1
        self._synced = content.copy()
        self._uncertain.clear()
        own = [content.own[key] for key in sorted(content.own)]
        return Restored(
            content.incarnation,
            content.bound,
            content.known_since,
            own,
            dict(content.passed),
            dict(content.retained),
            first,
            proofs=dict(content.proofs),
        )
