"""The service of systemd: what systemd says of it, what it is told, and that unit and page name the same things."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent.commands.systemd import Supervisor
from tests.program import flockmq, running

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "systemd" / "flockmq.service"
PAGE = (ROOT / "docs" / "raspberry-pi.md").read_text()


def values(key):
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


# A device needs no systemd, and the other tests of this file none either.
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


@pytest.fixture
def systemd(tmp_path):
    """Its end of the socket, and what a service finds in its environment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(tmp_path / "notify"))
        ours.settimeout(30)
        yield ours, {"NOTIFY_SOCKET": str(tmp_path / "notify")}


def heard(ours, until):
    """What is said, up to that."""
    said = [""]
    while said[-1] != until:
        said.append(ours.recv(100).decode())
    return said[1:]


def test_systemd_is_told_when_a_device_serves_lives_and_stops(systemd):
    ours, environment = systemd
    environment["WATCHDOG_USEC"] = "300000"
    with running("broker", "--port", "0", env=os.environ | environment) as process:
        assert heard(ours, "WATCHDOG=1") == ["READY=1", "WATCHDOG=1"]
        assert heard(ours, "WATCHDOG=1") == ["WATCHDOG=1"]
        process.terminate()
        assert set(heard(ours, "STOPPING=1")) <= {"WATCHDOG=1", "STOPPING=1"}


def test_what_hangs_says_where_when_it_is_ended():
    with running("broker", "--port", "0") as process:
        assert "serves" in process.stdout.readline()
        process.send_signal(signal.SIGABRT)
        assert "Fatal Python error: Aborted" in process.stderr.read()


@pytest.mark.parametrize(
    "asked", [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}], ids=str
)
def test_nobody_is_told_of_life_who_has_not_asked(systemd, monkeypatch, asked):
    ours, environment = systemd
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (environment | asked).items():
        monkeypatch.setenv(name, value)
    supervisor = Supervisor()
    asyncio.run(supervisor.show_life())
    supervisor.tell("STOPPING=1")
    assert heard(ours, "STOPPING=1") == ["STOPPING=1"]


def test_a_socket_without_a_file_is_one_too(monkeypatch):
    name = f"flockmq-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind("\0" + name)
        ours.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        Supervisor().tell("READY=1")
        assert heard(ours, "READY=1") == ["READY=1"]


def test_who_cannot_be_told_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Supervisor().tell("READY=1")
