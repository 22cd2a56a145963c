"""Keeps a TFLite runtime's greeting from a person's terminal.

Decides that of what is written to standard error meanwhile, by whomever, lines that begin with "INFO:" are left out;
the rest follows when it is over. LiteRT says of each first model which delegate it has made, from C++, and has no
switch for it. Assumes nobody else needs standard error at once. On failure: a runtime that takes the process down takes
with it what it has said, not why the process ended.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["without_greeting"]

STANDARD_ERROR: Final = 2


@contextlib.contextmanager
def without_greeting() -> Iterator[None]:
    """What a runtime greets with is not shown."""
    with tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        terminal = os.dup(STANDARD_ERROR)
        os.dup2(said.fileno(), STANDARD_ERROR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, STANDARD_ERROR)
            os.close(terminal)
            said.seek(0)
            for line in said:
                if not line.startswith(b"INFO:"):
                    os.write(STANDARD_ERROR, line)
