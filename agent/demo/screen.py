"""Where a run shows itself: lines of text, or a live table.

Decides nothing. Assumes the live table has a terminal, for itself. On failure: a reader of standard
output that is gone is the caller's `BrokenPipeError`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from agent.demo.table import Board, render

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Lines", "Table"]


class Lines:
    """One line for each thing that happens."""

    wants_reports = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def say(self, text: str) -> None:
        """Write it at once."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def show(self, board: Board, now_ns: int) -> None:
        """The table is left out."""


class Table:
    """The live table."""

    wants_reports = True

    def __init__(self) -> None:
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """The table shows it."""

    def show(self, board: Board, now_ns: int) -> None:
        """Draw it again."""
        self._live.update(render(board, now_ns, self._console.width), refresh=True)
