"""Slices of the processor that a worker asks the kernel for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.infer import promptness
from agent.infer.promptness import SLICE_US, take_short_slices

SLICE = re.compile(r"^se\.slice\s*:\s*(\d+)$", re.MULTILINE)
SHOWN = Path("/proc/self/sched")
ASKING = f"""
import os, re
from pathlib import Path
from agent.infer.promptness import take_short_slices

def slice_ns():
    return re.search({SLICE.pattern!r}, Path("/proc/self/sched").read_text(), re.MULTILINE)[1]

os.nice(3)
before = slice_ns()
take_short_slices()
print(before, slice_ns(), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))
"""


# Older kernels take no notice of the call, so there is nothing to be seen on them.
@pytest.mark.skipif(
    not (SHOWN.exists() and SLICE.search(SHOWN.read_text())),
    reason="this kernel shows no slices: it is older than 6.12, or made without debugging",
)
def test_it_has_shorter_slices_and_its_own_niceness():
    told = subprocess.run(
        [sys.executable, "-c", ASKING], capture_output=True, text=True, timeout=30, check=True
    )
    before, after, nice, policy = map(int, told.stdout.split())
    assert after == SLICE_US * 1_000 < before
    assert (nice, policy) == (os.getpriority(os.PRIO_PROCESS, 0) + 3, os.SCHED_OTHER)


def test_where_the_number_of_the_call_is_unknown_nothing_happens(monkeypatch):
    monkeypatch.setattr(promptness.platform, "machine", lambda: "sparc")
    take_short_slices()
