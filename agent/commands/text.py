"""Text on a person's terminal: lines of our own, and what others wrote.

Decides what of the latter is shown as it is: whatever is printable. The rest, line ends and the escape sequences that
move cursors and set titles among it, is shown as Python would write it.
"""

import sys

__all__ = ["count_of", "printable", "say"]


def say(text: str) -> None:
    """Write a line at once, whoever reads it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """`text` with everything escaped that could do more than be read."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count_of(number: int, what: str) -> str:
    """So many of it, in words: "1 device", "2 devices"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
