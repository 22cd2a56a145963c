"""Keeps whoever can cause a line in the log from filling the disk with lines.

Decides: of each kind of line, by where in the code it comes from, so many a minute are written; what is left out is
counted, and told with the next line of that kind. Errors are always written. Assumes that lines of one kind say much
the same, and that everything is counted elsewhere (`flockmq status`). On failure: nothing can fail.

Why: a stranger who connects and sends nonsense makes a line each time, 50 a second from one address: an SD card's worth
in months, and nobody finds anything in it.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LogPace"]

LINES_MAX: Final = 20
"""Of one kind, within WINDOW_S. A fleet of ten that comes up links in as many lines. Guess."""
WINDOW_S: Final = 60.0


class LogPace(logging.Filter):
    """To be added to a handler.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._window_ends_s = 0.0
        self._written: Counter[tuple[str, int]] = Counter()
        self._left_out: Counter[tuple[str, int]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written; one that follows those left out says how many they were."""
        if record.levelno >= logging.ERROR:
            return True
        now_s = self._clock()
        if now_s >= self._window_ends_s:
            self._window_ends_s = now_s + WINDOW_S
            self._written.clear()
        kind = (record.pathname, record.lineno)
        self._written[kind] += 1
        if self._written[kind] > LINES_MAX:
            self._left_out[kind] += 1
            return False
        left_out = self._left_out.pop(kind, 0)
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} lines like it were left out)"
            record.args = ()
        return True
