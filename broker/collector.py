"""Python's cyclic garbage collector, told what a device is like: a large start, then much that holds no cycles.

Decides: what is there when a device serves is never walked again (`gc.freeze`), and full collections are rare. By
default each quarter of growth costs one: measured 22 ms for the imports of a device and 17 ms more for a full log, in
which nobody is served; at 2,000 messages a second that came every few seconds and was the 99th percentile of latency.
Assumes that messages, bundles and logs hold no cycles, so counting references frees them at once; what does hold some
(tasks, exceptions) is young and is found by the frequent collections of young objects. On failure: such things stay
until the next full collection.
"""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["spare"]

YOUNG: Final = 250
"""Containers made, less those freed, between two walks of the young ones: 0.05 ms, and each tenth time 0.3 ms. With
2,000 it was 0.4 and 3.5, at the same price in all: 1 % of the time at 5,000 messages a second. What those add to the
99th percentile of decisions fell from 0.65 to 0.42 ms (measured)."""
MIDDLE: Final = 10
"""Walks of the young ones to one that takes in what they left."""
FULL: Final = 4_000
"""A full collection per ten million containers: at 2,000 messages a second every hour or so."""


def spare() -> None:
    """Set the collector up; call it once, when the device serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, FULL)
