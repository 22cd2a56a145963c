"""Which event loop a device runs on: uvloop where it exists, asyncio's own elsewhere.

It is imported when it is asked for: commands that run no device do without it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["loop_factory"]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the loop, for `asyncio.Runner`."""
    try:
        import uvloop  # noqa: PLC0415 - an accelerator, missing on some platforms
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
