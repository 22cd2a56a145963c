"""Memory and processor time of a process and everything it started, from /proc.

Assumes Linux. Resident memory is the sum of proportional sizes: a page that n processes share counts as one n-th in
each, so that workers forked from one template do not count its pages once more each. What a family shares with others,
the files of Python, counts in part only: a device that is alone on its machine takes some megabytes more. Processor
time includes descendants that ended and were waited for.
On failure: a process that is gone has no figures; the rest is counted.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

__all__ = ["cpu_s", "family", "own_start_ns", "rss_mb"]

PROC: Final = Path("/proc")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat, counted from the one after the name in brackets; see proc(5).
STATE, PPID, UTIME, STIME, CUTIME, CSTIME, STARTTIME = 0, 1, 11, 12, 13, 14, 19


def family(pids: set[int]) -> dict[int, set[int]]:
    """Each of these processes with all its living descendants, found in one pass."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            fields = _stat(int(entry.name))
            if fields is not None and fields[STATE] != "Z":
                parents[int(entry.name)] = int(fields[PPID])
    families: dict[int, set[int]] = {pid: {pid} for pid in pids}
    for pid in parents:
        ancestor: int | None = pid
        while ancestor is not None and ancestor not in families:
            ancestor = parents.get(ancestor)
        if ancestor is not None:
            families[ancestor].add(pid)
    return families


def rss_mb(pids: set[int]) -> float | None:
    """Resident memory, by proportional sizes, in units of 2**20 bytes; None if none of them lives."""
    sizes = [size for size in map(_pss_kib, pids) if size is not None]
    return sum(sizes) / 1024 if sizes else None


def cpu_s(pids: set[int]) -> float | None:
    """Seconds of processor time since their starts; None if none of them lives."""
    times = [
        sum(int(fields[field]) for field in (UTIME, STIME, CUTIME, CSTIME)) / TICKS_PER_S
        for fields in map(_stat, pids)
        if fields is not None
    ]
    return sum(times) if times else None


def own_start_ns() -> int:
    """When this process began, on the monotonic clock; to about 10 ms."""
    now_ns = time.monotonic_ns()
    fields = _stat(os.getpid())
    if fields is None:
        return now_ns
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - (
        int(fields[STARTTIME]) * 1_000_000_000 // TICKS_PER_S
    )
    return now_ns - max(0, age_ns)


def _stat(pid: int) -> list[str] | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _pss_kib(pid: int) -> int | None:
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return None
