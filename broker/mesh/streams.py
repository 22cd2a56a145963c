"""What has been heard of each stream: exactly once, in order when kept, newest only when fresh.

Theory of operation. A stream is one lane of one origin. Its kept bundles are numbered from 1 within an incarnation,
and the first bundle of an incarnation names the position at which the stream stood before (`closes`). So a stream is
one chain over all incarnations, and one position, (incarnation, sequence), says all that was passed of it:

    ... (3,40) -> (3,41) -> (7,1 closes 3,41) -> (7,2) ...

`KeptStream.accept` takes a bundle in any order; `advance` passes what follows the position. What does not follow yet
waits, bounded. A hole closes by repair, or is given up by `jump` when nobody can fill it.

After a boot the stored position says what was delivered before; bundles at or before `rebuild_upto` that are asked
for again are memory: they are handed on marked `rebuild`, once, and move nothing.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from broker.mesh.bundle import START
from broker.mesh.limits import LOG_BUNDLES_MAX, WAITING_BUNDLES_MAX
from broker.mesh.log import holes_between
from broker.mesh.window import Window

if TYPE_CHECKING:
    from broker.mesh.bundle import Position
    from broker.mesh.log import Stored

__all__ = ["FreshStream", "KeptStream", "Verdict"]


class Verdict(Enum):
    """What became of a bundle."""

    NEW = auto()
    REBUILD = auto()
    FULL = auto()
    """Too much is waiting already: not taken, repair brings it back."""


class KeptStream:
    """One kept lane of one origin."""

    __slots__ = (
        "_rebuilt",
        "position",
        "rebuild_upto",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, position: Position = START, *, rebuild: bool = False) -> None:
        self.position = position
        self.waiting: dict[Position, Stored] = {}
        self.waiting_bytes = 0
        self.rebuild_upto = position if rebuild else START
        self._rebuilt: set[Position] = set()

    def knows(self, position: Position) -> bool:
        """Whether a bundle at this position would be a copy."""
        if position > self.position:
            return position in self.waiting
        return position > self.rebuild_upto or position in self._rebuilt

    def follows(self, position: Position) -> bool:
        """Whether a bundle at this position would not have to wait."""
        incarnation, sequence = self.position
        return position <= (incarnation, sequence + 1)

    def accept(self, stored: Stored) -> Verdict:
        """Take a bundle that `knows` nothing of."""
        position = stored.header.position
        if position <= self.position:
            if len(self._rebuilt) >= LOG_BUNDLES_MAX:
                return Verdict.FULL  # more than anybody can hold
            self._rebuilt.add(position)
            return Verdict.REBUILD
        if len(self.waiting) >= WAITING_BUNDLES_MAX:
            farthest = max(self.waiting)
            if position > farthest:
                return Verdict.FULL
            self._take(farthest)
        self.waiting[position] = stored
        self.waiting_bytes += stored.weight_bytes
        return Verdict.NEW

    def advance(self) -> list[Stored]:
        """Pass every waiting bundle that follows; returns them in order."""
        passed: list[Stored] = []
        while self.waiting:
            incarnation, sequence = self.position
            position = (incarnation, sequence + 1)
            if position not in self.waiting:
                next_incarnation = self._next_incarnation()
                if next_incarnation is None:
                    break
                position = next_incarnation
            following = self._take(position)
            self.position = following.header.position
            passed.append(following)
            if following.header.sequence == 1:
                self._drop_passed()
        return passed

    def first_waiting(self) -> Stored | None:
        """The bundle that waits for the nearest hole to close."""
        return self.waiting[min(self.waiting)] if self.waiting else None

    def holes(self, upto: Position, at_most: int) -> list[tuple[Position, Position]]:
        """What is missing up to a position, as (after, up to), between what waits; the nearest first.

        What lies behind all that waits is not, while there is no room for it.
        """
        if len(self.waiting) >= WAITING_BUNDLES_MAX:
            upto = min(upto, max(self.waiting))
        waiting = (self.waiting[position] for position in sorted(self.waiting))
        return holes_between(waiting, self.position, upto)[:at_most]

    def jump(self, to: Position) -> Position:
        """Give up what is missing up to `to`, but nothing that waits here. Returns how far it went."""
        first = self.first_waiting()
        if first is not None:
            to = min(to, first.header.before)
        self.position = max(self.position, to)
        return self.position

    def end_rebuild(self) -> None:
        """From now on older bundles are duplicates again."""
        self.rebuild_upto = START
        self._rebuilt.clear()

    def _drop_passed(self) -> None:
        """Forget what waits and has been overtaken: leftovers of an incarnation that ended without them."""
        for position in [p for p in self.waiting if p <= self.position]:
            self._take(position)

    def _take(self, position: Position) -> Stored:
        stored = self.waiting.pop(position)
        self.waiting_bytes -= stored.weight_bytes
        return stored

    def _next_incarnation(self) -> Position | None:
        """Where the first bundle of the next incarnation waits, if it closes the present one where we stand."""
        firsts = [p for p in self.waiting if p[1] == 1 and p[0] > self.position[0]]
        if not firsts:
            return None
        first = min(firsts)
        header = self.waiting[first].header
        if header.closes is not None and not header.closes_lost and header.closes > self.position:
            return None
        return first


class FreshStream:
    """One fresh lane of one origin: a window of sequences, so that a copy is told from news."""

    __slots__ = ("_window", "incarnation")

    def __init__(self) -> None:
        self.incarnation = 0
        self._window = Window()

    @property
    def position(self) -> Position:
        """The newest that has come."""
        return (self.incarnation, self._window.newest)

    def knows(self, incarnation: int, sequence: int) -> bool:
        """Whether a bundle would be a copy, or come too late."""
        if incarnation != self.incarnation:
            return incarnation < self.incarnation
        return not self._window.reaches(sequence) or self._window.has(sequence)

    def accept(self, incarnation: int, sequence: int) -> None:
        """Take a bundle that `knows` nothing of."""
        if incarnation > self.incarnation:
            self.incarnation, self._window = incarnation, Window()
        self._window.add(sequence)
