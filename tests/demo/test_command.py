"""The command for real: five processes, faults and all, and nothing left behind."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import psutil
import pytest

from agent.demo.plan import DEVICES, TLS_PORTS_ON
from tests.infer.processes import wait_for_end, wait_until
from tests.ports import free_ports

START_S = 60
"""Five devices start one after the other, on whatever else the machine does."""


def free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def port():
    return free_ports(5, beside=TLS_PORTS_ON)


@pytest.fixture
def start(port, tmp_path):
    """Starts the command with a temporary directory of its own; ends it if the test does not."""
    started = []

    def start(*arguments, at=port, stdout=subprocess.PIPE):
        code = (
            "import sys; from agent.demo.command import demo; "
            f"sys.exit(demo({', '.join((*arguments, f'port={at}'))}))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def left_behind(directory):
    """Processes that were started on configurations of that directory."""
    return [
        process.pid
        for process in psutil.process_iter()
        if any(str(directory) in argument for argument in command_line(process))
    ]


def command_line(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_for_line(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}: {process.stderr.read()}")


def children(process):
    """Everything that a process has started, directly or not."""
    return psutil.Process(process.pid).children(recursive=True)


def when_running(process, look, what):
    """What `look` finds while the process runs."""

    def found():
        assert process.poll() is None, process.stderr.read()
        return look()

    return wait_until(found, what, START_S)


def children_when_there_are(process, count):
    """Five devices and their five workers: then all of them have started."""

    def enough():
        found = children(process)
        return found if len(found) >= count else None

    return when_running(process, enough, f"{count} processes")


def lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(processes):
    for process in processes:
        wait_for_end(process.pid)


@pytest.mark.timeout(120)
def test_a_run_with_all_faults(start, port, tmp_path):
    process = start("headless=True", "seconds=9", "json_output=True")
    output, errors = process.communicate(timeout=110)
    assert errors == ""
    result = json.loads(output.splitlines()[-1])
    obstacles = result["obstacles"]
    assert result["converged"], result
    assert (obstacles["missing"], obstacles["duplicated"], obstacles["expired"]) == (0, 0, 0)
    assert obstacles["published"] > 50
    assert obstacles["delivered"] >= 3 * obstacles["published"]
    assert obstacles["rebuilt"] > 0
    assert (result["devices"], result["links"]) == (5, 6)
    assert [fault["kind"] for fault in result["faults"]] == ["kill", "cut"]
    assert all(fault["healed_ms"] is not None for fault in result["faults"])
    assert result["late"]["count"] > 0
    assert {model["version"] for model in result["models"].values()} == {"2"}
    assert set(result["digests"]) == set(result["rss_mb"]) == set(DEVICES)
    assert result["forecast"]["count"] > 0
    assert process.returncode == 0
    assert left_behind(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert all(free(port + i) for i in range(5))


@pytest.mark.timeout(90)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything(start, port, tmp_path, number):
    process = start("headless=True", "calm=True", "seconds=60")
    wait_for_line(process, "5 devices")
    family = children(process)
    assert len(family) >= 5
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    wait_gone(family)
    assert list(tmp_path.iterdir()) == []
    assert all(free(port + i) for i in range(5))


@pytest.mark.timeout(90)
def test_a_live_demo_is_a_table_on_a_terminal_and_ends_with_ctrl_c(start, tmp_path):
    watcher, terminal = os.openpty()
    process = start("seconds=None", stdout=terminal)
    os.close(terminal)
    shown = []
    reading = threading.Thread(target=lambda: shown.append(read_terminal(watcher)))
    reading.start()
    family = children_when_there_are(process, 10)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    reading.join()
    assert "j-1-1" in shown[0]
    wait_gone(family)
    assert list(tmp_path.iterdir()) == []


def read_terminal(watcher):
    """Everything that is written to it, until nobody has it open any more."""
    said = b""
    with contextlib.suppress(OSError), os.fdopen(watcher, "rb", buffering=0) as file:
        while data := file.read(4096):
            said += data
    return said.decode()


@pytest.mark.timeout(90)
def test_a_live_demo_that_writes_to_no_terminal_tells_what_happens(start):
    process = start("seconds=9")
    for line in (
        "devices start and find each other; look inside: mosquitto_sub", "5 devices, 6 links", "kill", "start again",
        "kill: healed in", "all devices agree",
    ):  # fmt: skip
        wait_for_line(process, line)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


@pytest.mark.timeout(90)
def test_devices_end_when_the_demo_is_killed(start):
    process = start("headless=True", "calm=True", "seconds=60")
    wait_for_line(process, "5 devices")
    family = children(process)
    process.kill()
    process.wait()
    wait_gone(family)


def device_when_there_is(process, name):
    def device():
        for member in children(process):
            if lives(member) and f"{name}.toml" in " ".join(command_line(member)):
                return member
        return None

    return when_running(process, device, f"a device {name}")


@pytest.mark.timeout(90)
def test_a_device_that_somebody_kills_is_back_in_a_live_demo(start):
    process = start("seconds=None", "calm=True")
    device = device_when_there_is(process, "j-1-2")
    device.kill()
    wait_gone([device])
    device_when_there_is(process, "j-1-2")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


@pytest.mark.timeout(90)
def test_a_device_that_ends_unasked_ends_the_demo(start, tmp_path):
    process = start("headless=True", "calm=True", "seconds=60")
    wait_for_line(process, "5 devices")
    family = children(process)
    device = next(member for member in family if "j-1-2" in " ".join(member.cmdline()))
    device.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors == "flockmq demo: j-1-2 has ended: SIGKILL, and no word in its log\n"
    wait_gone(family)
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_line(start, port):
    with socket.create_server(("127.0.0.1", port + 2)):
        process = start("headless=True")
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.startswith(f"flockmq demo: port {port + 2} of 127.0.0.1, which j-1-0 needs")
    assert errors.count("\n") == 1
    assert "--port" in errors


def test_ports_end_somewhere(start):
    process = start("headless=True", at=65_533)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors == ("flockmq demo: there is no port 65633; choose --port between 1 and 65431\n")
