"""Every command that the README shows is run, as it stands there but for ports and running times."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.demo.plan import TLS_PORTS_ON
from tests.ports import free_ports
from tests.program import PROGRAM, started

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DEADLINE_S = 60
FIRST_PORT = 18_831

# Run elsewhere: by .ci/run itself, by tests/test_examples.py, by tests/docker, by tests/identity.
ELSEWHERE = (
    "make ",
    "docker compose ",
    ".venv/bin/flockmq ca ",
    ".venv/bin/flockmq enroll ",
    ".venv/bin/flockmq model ",  # test_examples.py
)

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("mosquitto_sub") is None, reason="no mosquitto-clients"),
]


def commands():
    """The lines of the README's plain code blocks that are commands."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    lines = [line for language, text in blocks if not language for line in text.splitlines()]
    known = (".venv/bin/flockmq ", "mosquitto_", "make ", "docker compose ")
    return [line for line in lines if line.startswith(known)]


def test_every_command_is_run_by_something():
    here = [command for command in commands() if not command.startswith(ELSEWHERE)]
    assert sorted(here) == sorted([*LOOKING, *PROVING, *SERVING])


IDENTITY = "/tmp/flockmq-demo-*/identity-viewer"
FILES = f"--cafile {IDENTITY}/ca.pem --cert {IDENTITY}/own.pem --key {IDENTITY}/own.key"
LOOKING = [
    "mosquitto_sub -p 18831 -t 'flock/v1/+/obstacle/#' -v",
    "mosquitto_sub -p 18834 -t 'home/#' -v",
    "mosquitto_pub -p 18831 -t home/lamp -m on -q 1",
    f"mosquitto_sub -p 18931 {FILES} -t 'flock/v1/+/status/+' -v",
]
PROVING = [".venv/bin/flockmq demo --headless --seconds 30 --json"]
SERVING = [
    ".venv/bin/flockmq broker --port 1883 --name kitchen",
    ".venv/bin/flockmq broker --port 1884 --name cellar --neighbour kitchen=127.0.0.1:1883",
]


def words(command, ports):
    """A command's words, with the README's ports replaced."""
    for old, new in ports.items():
        command = command.replace(str(old), str(new))
    found = shlex.split(command)
    if found[0].endswith("flockmq"):
        return [*PROGRAM, *found[1:]]
    return found


def first_line(arguments):
    with started(arguments) as process:
        return process.stdout.readline()


def test_looking_inside_the_demo(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    base = free_ports(5, beside=TLS_PORTS_ON)
    ports = {FIRST_PORT + number: base + number for number in (*range(5), TLS_PORTS_ON)}
    demo = [*words(PROVING[0], {30: 40}), "--calm", "--port", str(base)]
    with started(demo) as process:
        assert any("5 devices" in line for line in process.stdout)
        line = first_line(words(LOOKING[0], ports))
        assert re.match(r"flock/v1/city/obstacle/j-\d-\d/veh\d+ \{\"kind\":\"vehicle\"", line)
        with started(words(LOOKING[1], ports)) as subscriber:
            publisher = [*words(LOOKING[2], ports), "-r"]
            subprocess.run(publisher, check=True, timeout=DEADLINE_S)
            assert subscriber.stdout.readline() == "home/lamp on\n"
        (viewer,) = tmp_path.glob("flockmq-demo-*/identity-viewer")
        secured = LOOKING[3].replace(IDENTITY, str(viewer))
        assert first_line(words(secured, ports)).startswith("flock/v1/city/status/j-")
        for inline in re.findall(r"`\.venv/bin/(flockmq (?:watch|status|doctor)[^`]*)`", README):
            limit = " -C 1" if "watch" in inline else ""
            shown = subprocess.check_output(
                words(inline + limit, ports), text=True, timeout=DEADLINE_S
            )
            assert shown.strip()


def test_two_brokers_are_one():
    base = free_ports(2)
    ports = {1883: base, 1884: base + 1}
    with started(words(SERVING[0], ports)) as kitchen, started(words(SERVING[1], ports)) as cellar:
        assert "kitchen serves MQTT" in kitchen.stdout.readline()
        assert "cellar serves MQTT" in cellar.stdout.readline()
        publisher = words("mosquitto_pub -p 1883 -t t -m x -q 1 -r", ports)
        subprocess.run(publisher, check=True, timeout=DEADLINE_S)
        assert first_line(words("mosquitto_sub -p 1884 -t t", ports)) == "x\n"
