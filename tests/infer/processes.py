"""Processes as a test sees them from outside, and Python that they run before anything else."""

import os
import select
import time
from contextlib import suppress
from pathlib import Path

WAIT_S = 30


def wait_for_end(pid):
    """Waits until a process that need not be a child of ours is gone."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        assert poll.poll(WAIT_S * 1000), f"process {pid} is still there"
    finally:
        os.close(watched)


def wait_until(look, what, within_s=WAIT_S):
    """What `look` finds, once it finds something: for what nobody tells, and where no loop may turn meanwhile."""
    deadline_s = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline_s, f"after {within_s} s there is not: {what}"
        time.sleep(0.005)  # only between two looks: what is waited for is the condition
    return found


def children(pid="self"):
    """Process ids of all that it has started and not reaped."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return sorted(found)


def descriptors(pid="self"):
    """What it has open, by number."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # what this looks through itself
            found[entry.name] = str(entry.readlink())
    return found


def threads(pid):
    """How many it has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def on_every_start(monkeypatch, folder, code):
    """Makes every template that is started from here run that code first."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def on_every_fork(monkeypatch, folder, code):
    """Makes every worker whose template is started from here run that code first."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    hook = f"import os, sys\ndef begin():\n{lines}os.register_at_fork(after_in_child=begin)\n"
    on_every_start(monkeypatch, folder, hook)
