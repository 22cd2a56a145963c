"""The program as a person calls it: processes of their own, real files and brokers, port 0."""

import contextlib
import json
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

DEADLINE_S = 30
PROGRAM = [sys.executable, "-P", "-m", "agent.cli"]


class Told(NamedTuple):
    """What a command that has ended said."""

    code: int
    out: str
    err: str


def flockmq(*arguments, **options):
    """A command in a process of its own, until it ends."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False, **options,
    )  # fmt: skip
    return Told(done.returncode, done.stdout, done.stderr)


def good(*arguments, **options):
    """What a command prints, which must succeed."""
    told = flockmq(*arguments, **options)
    assert told.code == 0, told.err
    return told.out


def assert_one_line(told, reason):
    """A command has failed as a person can mend it."""
    assert told.code == 2, told.err
    assert re.fullmatch(rf"flockmq: .*{reason}.*\n", told.err), told.err


def running(*arguments, **options):
    """A command of ours that goes on until it is ended."""
    return started([*PROGRAM, *map(str, arguments)], **options)


@contextlib.contextmanager
def started(command, **options):
    """Any program, ended in the end."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    try:
        yield process
    finally:
        process.terminate()  # a killed broker would leave its directory behind
        try:
            process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()


@contextlib.contextmanager
def broker(*arguments):
    """A broker without an agent, and its port."""
    with running("broker", "--port", "0", *arguments) as process:
        line = process.stdout.readline()
        port = re.search(r":(\d+);", line)
        assert port, line
        yield process, int(port[1])


@contextlib.contextmanager
def device(config, **options):
    """A device, its plain port, and that for TLS if it has one, once it says that it serves."""
    with running("run", "--config", config, **options) as process:
        said = ""
        for line in process.stderr:
            said += line
            found = re.search(r"serves MQTT on [\d.]+:(\d+)(?:, and by TLS on [\d.]+:(\d+))?", line)
            if found:
                yield process, *(port and int(port) for port in found.groups())
                return
        pytest.fail(f"the device ended before it served: {said}")


def device_toml(directory, text=""):
    """A device.toml of a device `lot-1` without an identity."""
    path = directory / "device.toml"
    path.write_text(f'device = "lot-1"\nsite = "town"\n[broker]\nport = 0\n{text}')
    return path


def member_toml(directory, name, *neighbours):
    """A NAME.toml of a member of a fleet, its identity in `identity-NAME` beside it; `neighbours` are (name, port)."""
    path = directory / f"{name}.toml"
    text = (
        f'device = "{name}"\nsite = "town"\n[broker]\nport = 0\n'
        f'[tls]\nidentity = "identity-{name}"\nhost = "127.0.0.1"\nport = 0\n'
    )
    for peer, port in neighbours:
        text += f'[[neighbour]]\nname = "{peer}"\nhost = "127.0.0.1"\nport = {port}\n'
    path.write_text(text)
    return path


def report(port, **options):
    """What `flockmq status` tells of the device on a plain port."""
    return json.loads(good("status", "-p", port, "--json", **options))


def ask_until(ask, condition):
    """The first answer that a condition holds for; the test's own timeout bounds it."""
    while not condition(answer := ask()):
        pass
    return answer
