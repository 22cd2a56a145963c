"""What errors of the system say to people: their words, without the numbers in front."""

import os
import re
from typing import Final

__all__ = ["in_words"]

_PLACES: Final = ("call failed", "attempting to bind")
_NUMBER: Final = re.compile(r"\[Errno -?\d+\] ")


def in_words(error: Exception, silent: str = "no answer") -> str:
    """What an error says; `silent` for one that says nothing, as a timeout does.

    Where asyncio names a call and its address in place of the reason or around it, the reason.
    """
    if isinstance(error, OSError) and error.errno and any(at in str(error) for at in _PLACES):
        return os.strerror(error.errno)
    return _NUMBER.sub("", str(error)) or silent
