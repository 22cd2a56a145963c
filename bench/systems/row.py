"""What a system has to offer to be compared: a row of three, with a publisher at one end and a reducer at the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from bench.stage import Role, Stage

__all__ = ["Row", "System"]


@dataclass(frozen=True, slots=True)
class Row:
    """A row that stands."""

    near: Role
    """Answers what `bench.ends.Publishing` answers."""
    far: Role
    """Answers what `bench.ends.Reducing` answers."""


class System(Protocol):
    """A system under comparison."""

    name: str

    def missing(self) -> str | None:
        """Why it cannot take part here; None: it can."""

    async def start(self, stage: Stage, stamps: Path) -> Row:
        """Start a row of three and return when a message would pass it."""
