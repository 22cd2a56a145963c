"""Waiting inside a role for what is counted or noted elsewhere, whatever tells nobody of itself."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["until"]


async def until(
    condition: Callable[[], bool], *, within_s: float = math.inf, every_s: float = 0.01
) -> bool:
    """Look at a condition every so often until it holds. Returns whether it did in time."""
    ends_s = time.monotonic() + within_s
    while True:
        if condition():
            return True
        if time.monotonic() >= ends_s:
            return False
        await asyncio.sleep(every_s)
