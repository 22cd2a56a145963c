"""The fleet of docker-compose.yml as tests see it: commands as the page has them, and waiting for conditions."""

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.demo.plan import DEVICES

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 60.0
"""For anything that takes a second on an idle machine."""
COMMAND_S = 120.0
POLL_S = 0.1


def why_no_engine():
    """Why these tests cannot run here; None if they can."""
    if shutil.which("docker") is None:
        return "there is no docker program here"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode:
            return f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()[:200]}"
    return None


class Fleet:
    """A compose project of its own."""

    def __init__(self, compose):
        self.compose = compose

    def run(self, line, *, check=True):
        """The output of a `docker` command, as a person types it."""
        words = shlex.split(line)
        if words[1] == "compose":
            # A person has a terminal, a test has none.
            arguments = ["exec", "-T", *words[3:]] if words[2] == "exec" else words[2:]
            words = [*self.compose.docker_compose_command(), *arguments]
        else:
            project = os.environ["COMPOSE_PROJECT_NAME"]
            words = [re.sub("^flockmq(?=[-_])", project, word) for word in words]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=COMMAND_S, cwd=ROOT
        )
        if check:
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    def hear(self, device, *topic_filters, count):
        """The first so many messages that a subscriber at that device gets: topic to payload."""
        lines = self.run(
            f"docker compose exec {device} mosquitto_sub -F '%t %p' -W 3 -C {count} "
            + " ".join(f"-t '{one}'" for one in topic_filters),
            check=False,  # it fails when there are fewer
        )
        return dict(line.split(" ", 1) for line in lines.splitlines())

    def statuses(self, at):
        """What a device knows of the five."""
        topics = {f"flock/v1/city/status/{of}": of for of in DEVICES}
        heard = self.hear(at, *topics, count=len(topics))
        return {topics[topic]: json.loads(text) for topic, text in heard.items()}

    def status(self, of, at):
        """What a device knows of one."""
        return self.statuses(at).get(of, {})

    def until(self, look, good, what):
        """Look until it is good. Returns what was seen then."""
        end = time.monotonic() + DEADLINE_S
        while not good(seen := look()):
            if time.monotonic() > end:
                logs = self.run("docker compose logs --tail 20", check=False)
                pytest.fail(f"not within {DEADLINE_S:.0f} s: {what}; last: {seen}\n{logs}")
            time.sleep(POLL_S)
        return seen

    def until_all_up(self):
        """Every device calls every device up."""
        for device in DEVICES:
            self.until(
                lambda at=device: {n: s["state"] for n, s in self.statuses(at).items()},
                lambda states: states == dict.fromkeys(DEVICES, "up"),
                f"all are up at {device}",
            )


def left_of(project):
    """Containers, volumes and networks of a project."""
    found = []
    for kind in (["ps", "-a"], ["volume", "ls"], ["network", "ls"]):
        command = ["docker", *kind, "-q", "--filter", f"label=com.docker.compose.project={project}"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        found += listed.stdout.split()
    return found


@contextmanager
def started(override):
    """The five devices, built and started; nothing is left of them afterwards.

    Args:
        override: A compose file of what is started later, so that it is removed, too.
    """
    from testcontainers.compose import DockerCompose  # noqa: PLC0415 - slow, and only these tests need it

    with pytest.MonkeyPatch.context() as patch:
        project = f"flockmq-test-{secrets.token_hex(4)}"
        patch.setenv("COMPOSE_PROJECT_NAME", project)
        patch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
        compose = DockerCompose(ROOT, "docker-compose.yml", build=True, wait=False)
        everything = DockerCompose(ROOT, ["docker-compose.yml", str(override)])
        try:
            compose.start()
            yield Fleet(compose), Fleet(everything)
        finally:
            everything.stop()
        assert left_of(project) == []
