"""Standard streams that can be used, however this program was started.

Decides that one which is closed leads nowhere, as /dev/null does. Otherwise the next file or socket to be opened gets
its number: what is written to standard error then goes into that, and libuv ends the process when it is closed. A
character that standard output or error has no bytes for is written as an escape. Assumes that nothing was opened
before, so that the lowest free number is that of the stream. On failure: there is no /dev/null, and `OSError`.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Final

__all__ = ["mend_streams"]

INHERITED: Final = True
"""As a stream is that was open at the start: a program that this one starts has it, too."""


def mend_streams() -> None:
    """Open what is closed, and have the rest take every character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, INHERITED)
            setattr(sys, name, os.fdopen(number, mode))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
