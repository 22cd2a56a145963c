"""What this process and its inference worker cost, read from /proc; zeros where there is none."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

__all__ = ["CpuMeter", "rss_mb", "temperature_c"]

_PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 1e6
_ZONE: Final = Path("/sys/class/thermal/thermal_zone0/temp")


def rss_mb(pid: int | None = None) -> float:
    """Resident memory of a process, by default this one, in megabytes."""
    try:
        return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * _PAGE_MB
    except (OSError, ValueError, IndexError):
        return 0.0


def temperature_c() -> float | None:
    """The processor's temperature, where the kernel tells one."""
    try:
        return int(_ZONE.read_text()) / 1000
    except (OSError, ValueError):
        return None


class CpuMeter:
    """Processor time of this process between two looks."""

    def __init__(self) -> None:
        self._before = (time.monotonic(), time.process_time())

    def percent(self) -> float:
        """Of one core, since the last call."""
        wall, used = self._before
        self._before = (time.monotonic(), time.process_time())
        passed = self._before[0] - wall
        return 100 * (self._before[1] - used) / passed if passed > 0 else 0.0
