"""Where tables go: to a terminal as wide as that is, to a pipe with each row on one line.

Decides nothing else. Assumes standard output. On failure: it is the caller's, as with any write.
"""

from __future__ import annotations

from typing import Final

from rich.console import Console

__all__ = ["console_for_tables"]

PIPE_CHARACTERS: Final = 10_000
"""More than a row has: its reasons have 200 at most each, and are a few."""


def console_for_tables() -> Console:
    """Of standard output."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PIPE_CHARACTERS
    return console
