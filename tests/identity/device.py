"""Devices as processes of their own, as `flockmq run` starts them, for tests of identity."""

import contextlib
import json
import re
import subprocess
import sys

DEADLINE_S = 30


def flockmq(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-P", "-m", "agent.cli", *map(str, arguments)],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False, **options,
    )  # fmt: skip


def good(*arguments, **options):
    """What a command prints, which must succeed."""
    done = flockmq(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_config(directory, name, *neighbours):
    """A device.toml; `neighbours` are (name, port). Its identity is in `identity-NAME` beside it."""
    path = directory / f"{name}.toml"
    text = (
        f'device = "{name}"\nsite = "town"\n[broker]\nport = 0\n'
        f'[tls]\nidentity = "identity-{name}"\nhost = "127.0.0.1"\nport = 0\n'
    )
    for peer, port in neighbours:
        text += f'[[neighbour]]\nname = "{peer}"\nhost = "127.0.0.1"\nport = {port}\n'
    path.write_text(text)
    return path


@contextlib.contextmanager
def running(config, **options):
    """A running device: its process, its plain port and that for TLS."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "agent.cli", "run", "--config", str(config)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
    try:
        said = ""
        for line in process.stderr:
            said += line
            found = re.search(r"serves MQTT on [\d.]+:(\d+), and by TLS on [\d.]+:(\d+)", line)
            if found:
                yield process, int(found[1]), int(found[2])
                return
        raise AssertionError(f"the device ended before it served: {said}")
    finally:
        process.terminate()
        try:
            process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()


def report(port, **options):
    """What `flockmq status` tells of the device on a plain port."""
    return json.loads(good("status", "-p", port, "--json", **options))


def until(ask, condition):
    """The first answer that a condition holds for; the test's own timeout bounds it."""
    while not condition(answer := ask()):
        pass
    return answer
