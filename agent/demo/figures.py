"""Percentiles in bounded memory.

Decides: over a whole run a histogram whose buckets are 1 % wide, so a percentile is off by at
most 0.5 %; over the last seconds the values themselves. Maxima are exact.
Assumes durations in nanoseconds. On failure: without values there is no percentile, None.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

__all__ = ["Histogram", "Recent"]

BUCKET_WIDTH: Final = math.log(1.01)
RECENT_MAX: Final = 4_096
"""Values kept of a window: ten seconds of 400 deliveries a second."""


class Histogram:
    """Durations of a whole run."""

    def __init__(self) -> None:
        self.count = 0
        self.max_ns = 0
        self._buckets: dict[int, int] = {}

    def add(self, value_ns: int) -> None:
        """Take in one duration."""
        value_ns = max(1, value_ns)
        self.count += 1
        self.max_ns = max(self.max_ns, value_ns)
        bucket = int(math.log(value_ns) / BUCKET_WIDTH)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def percentile_ms(self, percent: float) -> float | None:
        """The duration that so many percent do not exceed, in milliseconds."""
        wanted = _rank(percent, self.count)
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                return min(self.max_ns, math.exp((bucket + 0.5) * BUCKET_WIDTH)) / 1e6
        return None


class Recent:
    """Durations of the last seconds.

    Args:
        window_ns: How long one counts.
    """

    def __init__(self, window_ns: int) -> None:
        self._window_ns = window_ns
        self._values: deque[tuple[int, int]] = deque(maxlen=RECENT_MAX)

    def add(self, at_ns: int, value_ns: int) -> None:
        """Take in one duration that ended at `at_ns`."""
        self._values.append((at_ns, value_ns))

    def percentiles_ms(self, now_ns: int, *percents: float) -> list[float] | None:
        """Those percentiles of the window up to now, in milliseconds."""
        while self._values and self._values[0][0] < now_ns - self._window_ns:
            self._values.popleft()
        values = sorted(value for _, value in self._values)
        if not values:
            return None
        return [values[_rank(percent, len(values)) - 1] / 1e6 for percent in percents]


def _rank(percent: float, count: int) -> int:
    """Which of the sorted values it is, counted from 1 (nearest rank)."""
    return max(1, math.ceil(percent * count / 100))
