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
from pathlib import Path

__all__ = ["mend_streams"]


def mend_streams() -> None:
    """Open what is closed, and have the rest take every character."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            stream = Path(os.devnull).open(mode)  # noqa: SIM115 - it stays open
            os.set_inheritable(stream.fileno(), True)  # noqa: FBT003 - it takes no keyword
            setattr(sys, name, stream)
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
