"""What all checkers share: a bounded list of violations."""

from __future__ import annotations

from typing import Final, NamedTuple

from sim.watcher import Watcher

__all__ = ["Checker", "Violation"]

VIOLATIONS_MAX: Final = 50
"""Of one checker in one run; the first tells the story, the rest only how far it spread."""


class Violation(NamedTuple):
    """A promise that was broken."""

    at_ms: int
    promise: str
    device: str
    text: str


class Checker(Watcher):
    """One promise."""

    promise = ""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def violated(self, now_ns: int, device: str, text: str) -> None:
        """Enter a violation."""
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(now_ns // 1_000_000, self.promise, device, text))
