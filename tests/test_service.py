"""The service of systemd: what systemd says of it, and that it and its page name the same things."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import flockmq

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "systemd" / "flockmq.service"
PAGE = (ROOT / "docs" / "raspberry-pi.md").read_text()


def values(key):
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="only systemd knows: apt install systemd"
)
def test_systemd_finds_nothing_wrong_with_it(tmp_path):
    (started,) = values("ExecStart")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(started.split()[0], sys.executable))
    found = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_it_starts_what_there_is_where_the_page_puts_it():
    (started,) = values("ExecStart")
    program, *arguments = started.split()
    folder = Path(arguments[-1]).parent
    assert f"{program} doctor" in PAGE
    assert [f"/var/lib/{name}" for name in values("StateDirectory")] == [str(folder)]
    assert values("WorkingDirectory") == [str(folder)]
    assert f"--home-dir {folder}" in PAGE
    told = flockmq(*arguments[:-1], "nowhere.toml")
    assert "nowhere.toml" in told.err  # it is taken for the file, and there is none


def test_it_may_ask_for_the_time():
    """Else the kernel ends it when it asks: outside of what services usually call."""
    (calls,) = values("SystemCallFilter")
    assert {"adjtimex", "clock_adjtime"} <= set(calls.split())
    assert not values("ProtectClock")
