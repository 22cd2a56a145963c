"""What errors of the system say to people: their words, without the numbers in front."""

import os
import re
from typing import Final

__all__ = ["in_words"]

_NUMBER: Final = re.compile(r"\[Errno -?\d+\] ")


def in_words(error: Exception, silent: str = "no answer") -> str:
    """What an error says; `silent` for one that says nothing, as a timeout does.

    Where asyncio names a call and its address in place of the reason, the reason.
    """
    if isinstance(error, OSError) and error.errno and "call failed" in str(error):
        return os.strerror(error.errno)
    return _NUMBER.sub("", str(error)) or silent
