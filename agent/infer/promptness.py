"""How soon the kernel runs a worker that was asked: at once, and not when another's slice of the processor ends.

Decides the length of the worker's own slices. A task with shorter slices takes the processor from one with longer ones
when it wakes, gets no more of it than that has, and lets others have it again sooner. A worker sleeps until it is
asked, often by a device that goes on with other work on the same processor.

Assumes Linux 6.12 or later (`sched_runtime` of ordinary tasks, sched_setattr(2)); earlier ones take no notice of it.
Python has no name for the call. On failure: nothing has changed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Final

__all__ = ["SLICE_US", "take_short_slices"]

SLICE_US: Final = 200
"""Others have 0.7 ms or more, 0.1 ms is the least there is. Beside 5,000 messages a second on two cores the slowest
hundredth of decisions took 1.7 times as long as without them, 2.0 times with ordinary slices (docs/bench.md)."""

SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
"""The number of the call in programs of 64 bits. Source: Linux, the tables of system calls."""
_ATTRIBUTES: Final = struct.Struct("IIQiIQQQ")
"""struct sched_attr: its size, policy, flags, nice, priority, runtime, deadline, period."""
_KEEP_POLICY: Final = 0x08


def take_short_slices() -> None:
    """Have this thread, and those that it starts, run in slices of SLICE_US."""
    number = SCHED_SETATTR.get(platform.machine())
    if number is None or struct.calcsize("P") != 8:  # 32-bit programs run on 64-bit kernels, too
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(
        _ATTRIBUTES.size, 0, _KEEP_POLICY, nice, 0, SLICE_US * 1_000, 0, 0
    )
    ctypes.CDLL(None).syscall(number, 0, attributes, 0)
