"""What the wall clock shows, and whether anything keeps it right.

Decides whether this device may refuse bundles from the future: only one whose own clock is synchronised may. Asks the
kernel (`adjtimex`), which is what NTP daemons report to. Where it cannot be asked, the clock counts as not
synchronised, which is the harmless answer.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.mesh.mesh import Mesh

__all__ = ["is_synchronised", "keep_wall_clock", "set_wall_clock", "wall_ms"]

_LOOK_S = 1.0
"""How often the wall clock is looked at; it matters to hybrid stamps by milliseconds only."""

_TIMEX_BYTES = 256
"""struct timex is 208 bytes on 64-bit Linux; zeros mean: only read."""
_MADE_MS = 1_767_225_600_000
"""The first of January 2026. What shows less has not been set, whoever says that it is kept."""
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""


def wall_ms() -> int:
    """Milliseconds since 1970, as this device believes."""
    return time.time_ns() // 1_000_000


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def is_synchronised() -> bool:
    """Whether the kernel says that a time daemon keeps the clock right, and it shows no time before this program."""
    if wall_ms() < _MADE_MS:
        return False
    try:
        state: int = _libc().adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _TIME_ERROR


def set_wall_clock(mesh: Mesh) -> None:
    """Tell a mesh what the wall clock shows."""
    mesh.set_wall_clock(wall_ms(), time.monotonic_ns(), synchronised=is_synchronised())


async def keep_wall_clock(mesh: Mesh) -> None:
    """Tell it again and again; cancel to stop."""
    while True:
        await asyncio.sleep(_LOOK_S)
        set_wall_clock(mesh)
