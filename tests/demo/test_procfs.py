"""What a process and everything it started hold in memory."""

from __future__ import annotations

import subprocess
import sys

from agent.demo import procfs

FORKS = """
import os, sys
held = os.urandom(64 * 2**20)
child = os.fork()
if child:
    print(child, flush=True)
sys.stdin.read()
"""


def test_pages_that_a_fork_shares_count_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        family = procfs.family({parent.pid})[parent.pid]
        held_mb = procfs.rss_mb(family)
        parent.stdin.close()
    assert family == {parent.pid, child}
    assert held_mb is not None
    assert 64 < held_mb < 2 * 64


def test_a_process_that_is_gone_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert procfs.rss_mb({process.pid}) is None
