"""A device that boots in 1970 joins through real TLS and learns the time: two processes, one under libfaketime."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import ask_until, device, good, member_toml, report

LIBRARIES = sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))

pytestmark = pytest.mark.timeout(120)


def of_1970():
    """The environment of a process whose clock has just been powered on. Time passes in it."""
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed: apt install faketime")
    return os.environ | {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME": "@1970-01-01 00:00:10",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "TZ": "UTC",
    }


def _greeted(said):
    return any(link["established"] for link in said["links"])


@pytest.mark.parametrize("dials", ["old", "new"])
def test_a_device_of_1970_joins_and_learns_the_time(tmp_path, dials):
    environment = of_1970()
    command = [sys.executable, "-c", "import time; print(int(time.time()) // 100)"]
    assert subprocess.check_output(command, env=environment) == b"0\n"
    good("ca", "init", "town", cwd=tmp_path)
    for name in ("old", "new"):
        good("ca", "issue", name, cwd=tmp_path)
    first, second = ("new", "old") if dials == "old" else ("old", "new")

    def options(name):
        return {"env": environment} if name == "old" else {}

    with device(member_toml(tmp_path, first), **options(first)) as (_, plain, secured):
        config = member_toml(tmp_path, second, (first, secured))
        with device(config, **options(second)) as (_, other, _):
            ports = {first: plain, second: other}
            said = ask_until(lambda: report(ports["old"]), _greeted)
            assert [link["name"] for link in said["links"]] == ["new"]
            assert said["identity"]["refused"] == {}
            assert said["identity"]["standing"] == "good"
            # What it says is as old as it should be, by the clock of this test.
            ask_until(
                lambda: good("watch", "flock/v1/town/heartbeat/old", "-C", "1", "-p", ports["new"]),
                lambda shown: " ms flock/v1/town/heartbeat/old" in shown,
            )
