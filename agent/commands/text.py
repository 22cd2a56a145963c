"""Text from others on a person's terminal.

Decides what of it is shown as it is: whatever is printable. The rest, line ends and the escape sequences that move
cursors and set titles among it, is shown as Python would write it.
"""

__all__ = ["printable"]


def printable(text: str) -> str:
    """`text` with everything escaped that could do more than be read."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
