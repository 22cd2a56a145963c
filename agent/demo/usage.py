"""What each device costs: the most memory it ever held, its mean processor time over the run.

Decides: memory and time of a device are those of its process and all it started, the inference
worker above all. Time of a life that was killed counts until just before the kill.
Assumes `sample` is called about once a second. On failure: a device that was never seen alive has
no figures.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agent.demo import procfs

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Usage"]


class Usage:
    """What the kernel says."""

    def __init__(self) -> None:
        self.rss_mb: dict[str, float] = {}
        """By device: the most at one moment."""
        self._began_ns: int | None = None
        self._ended_ns = 0
        self._base_s: dict[int, float] = {}
        self._spent_s: dict[tuple[str, int], float] = {}

    def begin(self, pids: Mapping[str, int]) -> None:
        """Processor time counts from here on."""
        self.sample(pids)
        self._began_ns = time.monotonic_ns()
        self._base_s = {pid: spent_s for (_, pid), spent_s in self._spent_s.items()}

    def sample(self, pids: Mapping[str, int]) -> None:
        """Look at all processes, by device."""
        families = procfs.family(set(pids.values()))
        for device, pid in pids.items():
            rss_mb = procfs.rss_mb(families[pid])
            spent_s = procfs.cpu_s(families[pid])
            if rss_mb is not None:
                self.rss_mb[device] = max(rss_mb, self.rss_mb.get(device, 0.0))
            if spent_s is not None:
                self._spent_s[device, pid] = spent_s
        self._ended_ns = time.monotonic_ns()

    def cpu_percent(self) -> dict[str, float]:
        """By device: mean since `begin`, of one core."""
        if self._began_ns is None or self._ended_ns <= self._began_ns:
            return {}
        run_s = (self._ended_ns - self._began_ns) / 1e9
        spent_s: dict[str, float] = {}
        for (device, pid), until_s in self._spent_s.items():
            spent_s[device] = spent_s.get(device, 0.0) + until_s - self._base_s.get(pid, 0.0)
        return {device: 100 * spent / run_s for device, spent in spent_s.items()}
