"""A benchmark that is told to stop leaves no process and no directory behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infer.processes import wait_until


def processes_in(directory):
    """Living processes whose working files lie in a directory, by their command lines or environments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(") ")[2][0]
            except OSError:
                continue
            if os.fsencode(directory) in told and state != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_that_was_started(tmp_path, number):
    benchmark = subprocess.Popen(
        [sys.executable, "-m", "bench", "idle", "--quick"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: len(processes_in(tmp_path)) >= 3, "three processes")
        benchmark.send_signal(number)
        assert benchmark.wait(20) == 130
    finally:
        benchmark.kill()
        benchmark.wait()
    assert processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
