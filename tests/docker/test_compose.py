"""Five containers are one fleet: seen through mosquitto_sub, by the commands of docs/docker.md."""

import json
import re
import shlex
import subprocess

import pytest

from agent.demo.plan import DEVICES
from tests.docker.fleet import ROOT, started, why_no_engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


def page_blocks(language):
    page = (ROOT / "docs" / "docker.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def fleets(tmp_path_factory):
    """The fleet of five, and the same with the page's sixth device, which is not started."""
    reason = why_no_engine()
    if reason is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("sixth")
    (toml,), (override,) = page_blocks("toml"), page_blocks("yaml")
    (folder / "j-0-0.toml").write_text(toml)
    (folder / "j-0-0.toml").chmod(0o644)
    for parent in (folder, folder.parent):
        parent.chmod(0o755)
    text = override.replace("./deploy/compose", str(folder))
    (folder / "docker-compose.override.yml").write_text(text)
    with started(folder / "docker-compose.override.yml") as fleets:
        yield fleets


@pytest.fixture
def fleet(fleets):
    """The five, all up."""
    five, _ = fleets
    five.until_all_up()
    return five


def devices_of(heard):
    return {topic.split("/")[4] for topic in heard}


def test_all_five_hear_each_other(fleet):
    for device in DEVICES:
        fleet.until(
            lambda at=device: devices_of(fleet.hear(at, "flock/v1/city/heartbeat/+", count=10)),
            lambda heard: heard >= set(DEVICES),
            f"{device} hears all heartbeats",
        )


def test_all_five_share_what_they_see_and_run_the_operators_model(fleet):
    fleet.until(
        lambda: devices_of(fleet.hear("j-2-1", "flock/v1/city/obstacle/#", count=20)),
        lambda observers: len(observers) > 1,
        "obstacles of several devices are heard at one",
    )
    for device in DEVICES:
        until_models(fleet, device, "1")
    fleet.run("docker compose run --rm operator forecaster-2")
    for device in DEVICES:
        until_models(fleet, device, "2")
    assert "forecaster  2     2            active" in fleet.run(
        "docker compose exec j-1-1 flockmq model status"
    )
    fleet.run(
        "docker compose run --rm --entrypoint flockmq operator model rollback forecaster --host j-1-1 "
        "--identity /var/lib/flockmq/identity"
    )
    for device in DEVICES:
        until_models(fleet, device, "1")


def until_models(fleet, at, version):
    def look():
        heard = fleet.hear(at, "flock/v1/city/model-status/+/forecaster", count=len(DEVICES))
        statuses = {topic.split("/")[4]: json.loads(text) for topic, text in heard.items()}
        return {name: (status["version"], status["state"]) for name, status in statuses.items()}

    fleet.until(
        look,
        lambda seen: seen == dict.fromkeys(DEVICES, (version, "active")),
        f"{at} knows that all run version {version}",
    )


def test_the_page_shows_how_to_look_inside(fleet):
    assert "peers alive" in fleet.run("docker compose exec j-1-1 flockmq status")
    for line in (
        "docker compose exec j-1-1 mosquitto_sub -v -C 5 -t 'flock/v1/+/status/+'",
        "docker compose exec j-1-1 mosquitto_sub -v -C 20 -t 'flock/v1/+/heartbeat/+'",
        "docker compose exec j-1-1 mosquitto_sub -v -C 3 -t 'flock/v1/+/obstacle/#'",
        "docker compose exec j-1-1 mosquitto_sub -v -C 5 -t 'flock/v1/+/model-status/#'",
    ):
        shown = fleet.run(line).splitlines()
        assert len(shown) == int(line.split(" -C ")[1].split()[0])
        assert all(one.startswith("flock/v1/city/") for one in shown)
    assert "serves MQTT" in fleet.run("docker compose logs j-1-1")


def test_a_message_published_on_one_arrives_at_another(fleet):
    fleet.run("docker compose exec j-0-1 mosquitto_pub -q 1 -r -t notes/today -m 'road works'")
    fleet.until(
        lambda: fleet.run("docker compose exec j-1-2 mosquitto_sub -v -C 1 -t notes/today"),
        lambda shown: shown == "notes/today road works\n",
        "the note is at j-1-2",
    )


def test_one_that_is_stopped_says_goodbye_and_catches_up(fleet):
    others = [name for name in DEVICES if name != "j-1-2"]
    before = fleet.status(of="j-1-2", at="j-1-1")
    fleet.run("docker compose stop j-1-2")
    container = fleet.compose.get_container("j-1-2", include_all=True)
    assert (container.State, container.ExitCode) == ("exited", 0)
    for other in others:
        seen = fleet.until(
            lambda at=other: fleet.status(of="j-1-2", at=at),
            lambda status: status.get("state") == "down",
            f"{other} knows that j-1-2 is down",
        )
        assert (seen["incarnation"], seen["by"]) == (before["incarnation"], "j-1-2")
    fleet.run("docker compose exec j-0-1 mosquitto_pub -q 1 -r -t notes/missed -m 'while away'")
    fleet.run("docker compose start j-1-2")
    fleet.until(
        lambda: fleet.hear("j-1-2", "notes/missed", count=1),
        lambda heard: heard == {"notes/missed": "while away"},
        "j-1-2 has what it missed",
    )
    until_back(fleet, "j-1-2", before)


def test_one_that_is_killed_is_called_lost_and_catches_up(fleet):
    others = [name for name in DEVICES if name != "j-1-0"]
    before = fleet.status(of="j-1-0", at="j-1-1")
    fleet.run("docker compose kill j-1-0")
    for other in others:
        seen = fleet.until(
            lambda at=other: fleet.status(of="j-1-0", at=at),
            lambda status: status.get("state") == "lost",
            f"{other} knows that j-1-0 is lost",
        )
        assert seen["incarnation"] == before["incarnation"]
        assert seen["by"] in {"j-0-1", "j-2-1"}  # those that had a link to it
    fleet.run("docker compose exec j-1-2 mosquitto_pub -q 1 -r -t notes/lost -m 'while lost'")
    fleet.run("docker compose start j-1-0")
    fleet.until(
        lambda: fleet.hear("j-1-0", "notes/lost", count=1),
        lambda heard: heard == {"notes/lost": "while lost"},
        "j-1-0 has what it missed",
    )
    until_back(fleet, "j-1-0", before)


def until_back(fleet, device, before):
    for other in DEVICES:
        fleet.until(
            lambda at=other: fleet.status(of=device, at=at),
            lambda status: (
                status.get("state") == "up" and status["incarnation"] > before["incarnation"]
            ),
            f"{other} knows that {device} is back",
        )


def test_one_that_is_cut_off_goes_on_and_has_the_rest_when_it_is_back(fleet):
    fleet.run("docker network disconnect flockmq_mesh flockmq-j-2-1-1")
    for at in (name for name in DEVICES if name != "j-2-1"):
        fleet.until(
            lambda at=at: fleet.status(of="j-2-1", at=at),
            lambda status: status.get("state") == "lost",
            f"{at} knows that j-2-1 is lost",
        )
    fleet.run("docker compose exec j-2-1 mosquitto_pub -q 1 -r -t notes/one -m 'alone'")
    fleet.run("docker compose exec j-0-1 mosquitto_pub -q 1 -r -t notes/four -m 'the rest'")
    assert fleet.hear("j-2-1", "notes/one", "notes/four", count=2) == {"notes/one": "alone"}
    fleet.run("docker network connect --alias j-2-1 flockmq_mesh flockmq-j-2-1-1")
    for at in ("j-0-1", "j-2-1"):
        fleet.until(
            lambda at=at: fleet.hear(at, "notes/one", "notes/four", count=2),
            lambda heard: heard == {"notes/one": "alone", "notes/four": "the rest"},
            f"{at} has both",
        )


def test_one_that_is_revoked_is_shut_out_until_it_has_a_new_identity(fleet):
    members = "docker compose exec authority flockmq ca list --directory /ca"
    assert "device j-1-2: " in fleet.run(members)
    fleet.run("docker compose exec authority flockmq ca revoke j-1-2 --directory /ca --via j-1-1")
    fleet.until(
        lambda: fleet.status(of="j-1-2", at="j-0-1"),
        lambda status: status.get("state") == "lost",
        "j-0-1 knows that j-1-2 is lost",
    )
    assert "device j-1-2: " not in fleet.run(members)
    fleet.run(
        "docker compose run --rm --no-deps --entrypoint rm identities -r /members/j-1-2/identity"
    )
    fleet.run("docker compose run --rm identities")
    fleet.run("docker compose restart j-1-2")
    fleet.until_all_up()
    assert "device j-1-2: " in fleet.run(members)


def test_a_viewer_looks_on_from_this_machine(fleet, tmp_path):
    fleet.run(
        "docker compose exec authority flockmq ca issue desk --role viewer --directory /ca --out /ca/desk"
    )
    here = str(tmp_path / "desk")
    fleet.run("docker compose cp authority:/ca/desk desk".replace(" desk", f" {here}"))
    address = fleet.run("docker compose exec j-1-1 hostname -i").strip()
    page = (ROOT / "docs" / "docker.md").read_text()
    (shown,) = re.findall("^mosquitto_sub .*", page, re.MULTILINE)
    words = shlex.split(shown.replace("172.18.0.3", address).replace(" desk/", f" {here}/"))
    done = subprocess.run(
        [*words, "-C", "5", "-W", "20"], capture_output=True, text=True, check=False, timeout=60
    )
    assert len(done.stdout.splitlines()) == 5, done.stderr


def test_a_sixth_device_joins_without_a_restart_of_the_others(fleet, fleets):
    _, six = fleets
    before = incarnations(fleet)
    running = {name: fleet.compose.get_container(name).ID for name in DEVICES}
    try:
        six.run("docker compose up -d j-0-0")
        fleet.until(
            lambda: devices_of(fleet.hear("j-2-1", "flock/v1/city/heartbeat/+", count=12)),
            lambda heard: heard >= {*DEVICES, "j-0-0"},
            "the sixth is heard on the other side of the fleet",
        )
        assert {name: fleet.compose.get_container(name).ID for name in DEVICES} == running
        assert incarnations(fleet) == before
    finally:
        six.run("docker compose rm -s -f -v j-0-0")


def incarnations(fleet):
    return {name: status["incarnation"] for name, status in fleet.statuses("j-1-1").items()}


def inspected(container):
    """What the engine knows of a container."""
    command = ["docker", "inspect", container.ID]
    (found,) = json.loads(
        subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    )
    return found


def test_docker_finds_them_healthy_and_nothing_outside_reaches_them(fleet):
    fleet.until(
        lambda: {c.Service: c.Health for c in fleet.compose.get_containers() if c.Service},
        lambda health: all(health.get(name) == "healthy" for name in DEVICES),
        "all are healthy",
    )
    assert "(healthy)" in fleet.run("docker compose ps")
    for name in DEVICES:
        container = fleet.compose.get_container(name)
        assert not any(port.PublishedPort for port in container.Publishers or ())
        found = inspected(container)
        assert found["Config"]["User"] == "flockmq"
        assert found["HostConfig"]["ReadonlyRootfs"]
        assert found["HostConfig"]["Memory"] == 256 * 2**20
        assert len(found["NetworkSettings"]["Networks"]) == 1


def test_all_end_when_they_are_stopped_and_leave_no_nameless_volumes(fleet):
    containers = fleet.compose.get_containers(include_all=True)
    assert {c.Service for c in containers} >= {*DEVICES, "identities", "authority", "operator"}
    for container in containers:
        mounts = inspected(container)["Mounts"]
        names = [mount["Name"] for mount in mounts if mount["Type"] == "volume"]
        assert all(name.startswith(container.Project) for name in names), (container.Service, names)
    fleet.run("docker compose stop authority")
    authority = fleet.compose.get_container("authority", include_all=True)
    assert authority.ExitCode == 130  # by Ctrl-C's signal; 137 is a kill, after ten seconds
    fleet.run("docker compose start authority")


def test_memory_outlives_the_containers_until_it_is_removed(fleet):
    before = incarnations(fleet)
    fleet.run("docker compose down")
    assert not fleet.compose.get_containers(include_all=True)
    fleet.run("docker compose up -d --build")
    fleet.until_all_up()
    fleet.until(
        lambda: incarnations(fleet),
        lambda after: all(after[name] == before[name] + 1 for name in DEVICES),
        "all are in their next incarnation",
    )
    fleet.run("docker compose down --volumes")
    fleet.run("docker compose up -d --build")
    fleet.until_all_up()
    # Without memory a device begins at an incarnation of its own, not at the next one.
    anew = incarnations(fleet)
    assert all(anew[name] != before[name] + 2 for name in DEVICES)
