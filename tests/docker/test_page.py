"""What the containers are started from agrees with the rest of the project. Needs no engine."""

import ast
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from agent.config import load
from agent.demo.plan import DEVICES, LINKS, SITE
from agent.models.shipped import ModelFiles
from broker.identity import Moment
from broker.trust import Trust

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy" / "compose"
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PAGE = (ROOT / "docs" / "docker.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_devices_and_links_are_those_of_the_demo():
    configs = {path.stem: load(path) for path in DEPLOY.glob("*.toml")}
    assert set(configs) == set(DEVICES) == set(SERVICES) - {"operator", "identities", "authority"}
    dialled = {(name, n.name) for name, config in configs.items() for n in config.neighbour}
    assert dialled == {(a, b) for a, b in LINKS} | {(b, a) for a, b in LINKS}
    for name, config in configs.items():
        assert (config.device, config.site) == (name, SITE)
        assert all(n.host == n.name and n.port == config.tls.port for n in config.neighbour)
        assert config.sensor.options["junction"] == name


@pytest.mark.parametrize("device", DEVICES)
def test_a_container_has_its_own_configuration_and_disk(device):
    state = load(DEPLOY / f"{device}.toml").state
    assert SERVICES[device]["volumes"] == [
        f"./deploy/compose/{device}.toml:/etc/flockmq/device.toml:ro",
        f"{device}:{state}",
    ]


@pytest.mark.parametrize("device", DEVICES)
def test_a_container_is_a_member_with_an_identity_on_its_own_disk(device):
    config = load(DEPLOY / f"{device}.toml")
    assert config.tls.identity == f"{config.state}/identity"
    assert not config.broker.plain_listen
    assert f"{device}:/members/{device}" in SERVICES["identities"]["volumes"]
    mounted = [name for name, one in SERVICES.items() if "ca:/ca" in one.get("volumes", ())]
    assert mounted == ["identities", "authority"]


@pytest.fixture
def made(tmp_path):
    """Runs the script that the containers run: the certificates that its members have then."""
    members = tmp_path / "members"
    for name in ("operator", *DEVICES[:2]):
        (members / name).mkdir(parents=True)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CA": str(tmp_path / "ca"),
        "MEMBERS": str(members),
        "OWNER": str(os.getuid()),
    }

    def run():
        command = ["sh", str(DEPLOY / "identities.sh")]
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=60)
        return {
            folder.name: (folder / "identity" / "own.pem").read_bytes()
            for folder in members.iterdir()
        }

    return run


def test_identities_are_made_once_and_again_where_they_were_lost(tmp_path, made):
    first = made()
    members = tmp_path / "members"
    assert stat.S_IMODE((members / DEVICES[0] / "identity" / "own.key").stat().st_mode) == 0o600
    shutil.rmtree(members / DEVICES[1] / "identity")
    second = made()
    assert {name for name in first if second[name] != first[name]} == {DEVICES[1]}
    clock = Moment(time.time_ns() // 1_000_000, synchronised=True)
    for name in second:
        found = Trust(members / name / "identity", lambda: clock).identity
        assert found == ("city", name, "operator" if name == "operator" else "device")


def test_the_operator_is_renewed_when_that_is_due(tmp_path, made, call):
    """People have no grace; and each renewal stays in the authority's book, which has room for so many."""
    ca = ("--directory", tmp_path / "ca")
    assert call("ca", "init", "city", *ca).code == 0
    folder = tmp_path / "members" / "operator" / "identity"
    short = ("--role", "operator", "--days", "10", "--out", folder)
    assert call("ca", "issue", "operator", *short, *ca).code == 0
    first = (folder / "own.pem").read_bytes()
    second = made()["operator"]
    assert second != first
    assert made()["operator"] == second


def test_a_revoked_operator_keeps_nobody_from_starting(tmp_path, made, call):
    first = made()
    assert call("ca", "revoke", "operator", "--directory", tmp_path / "ca").code == 0
    assert made() == first


def test_no_port_is_published():
    assert not [name for name, service in SERVICES.items() if "ports" in service]


def test_the_operator_publishes_what_ships():
    operator = SERVICES["operator"]
    package, *options = operator["command"]
    assert options == ["--first"], "a fleet that is started again keeps the version that it has"
    shipped = [f"{p.draft.name}-{p.draft.version}" for p in ModelFiles().packages]
    assert package == shipped[0]
    assert operator["entrypoint"][:3] == ["flockmq", "model", "publish"]


def test_every_command_of_the_page_is_run_by_the_test():
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) > 10
    source = ast.parse((Path(__file__).parent / "test_compose.py").read_text())
    run = {node.value for node in ast.walk(source) if isinstance(node, ast.Constant)}
    assert [command for command in commands if command not in run] == []


def test_the_sixth_device_of_the_page_loads(tmp_path):
    (toml,) = blocks("toml")
    (tmp_path / "device.toml").write_text(toml)
    config = load(tmp_path / "device.toml")
    assert config.device not in SERVICES
    assert {n.name for n in config.neighbour} <= set(SERVICES)
