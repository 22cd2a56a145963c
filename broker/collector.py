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

YOUNG: Final = 2_000
"""Containers made, less those freed, between two walks of the young ones: about 0.3 ms."""
MIDDLE: Final = 10
FULL: Final = 500
"""A full collection per ten million containers: at 2,000 messages a second every hour or so."""


def spare() -> None:
    """Set the collector up; call it once, when the device serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, FULL)
