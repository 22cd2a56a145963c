"""The program as a person calls it: real processes, real brokers, port 0."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.ports import free_ports
from tests.program import (
    DEADLINE_S,
    PROGRAM,
    ask_until,
    assert_one_line,
    broker,
    device,
    device_toml,
    flockmq,
    good,
    report,
    running,
    started,
)

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.timeout(120)


def test_its_version_is_that_of_the_project():
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]
    assert good("--version") == f"flockmq {project['version']}\n"


def test_two_brokers_are_one_and_end_quietly():
    with broker("--name", "kitchen") as (kitchen, port):
        dial = f"kitchen=127.0.0.1:{port}"
        with (
            broker("--name", "cellar", "--neighbour", dial) as (_, other),
            running("watch", "home/#", "-p", other, "-C", "1") as watch,
        ):
            shown = watched(port, watch)
        assert "home/lamp" in shown
        assert shown.rstrip().endswith("on")
        kitchen.send_signal(signal.SIGINT)
        out, err = kitchen.communicate(timeout=DEADLINE_S)
        assert kitchen.returncode == 0
        assert "Traceback" not in out + err


def watched(port, watch):
    """Publish a retained value until the watcher has shown one message and ended."""
    publish(port, "home/lamp", "on", "-r")
    out, err = watch.communicate(timeout=DEADLINE_S)
    assert watch.returncode == 0, err
    return out


def publish(port, topic, payload, *arguments):
    if shutil.which("mosquitto_pub") is None:
        pytest.skip("mosquitto-clients is not installed")
    command = ["mosquitto_pub", "-p", str(port), "-q", "1", "-t", topic, "-m", payload, *arguments]
    subprocess.run(command, check=True, timeout=DEADLINE_S)


def test_mosquitto_s_own_clients_are_served():
    with broker() as (_, port):
        publish(port, "home/lamp", "on", "-r")
        heard = subprocess.run(
            ["mosquitto_sub", "-p", str(port), "-q", "1", "-t", "home/#", "-C", "1", "-W", "20", "-v"],
            capture_output=True, text=True, check=True, timeout=DEADLINE_S,
        )  # fmt: skip
        assert heard.stdout == "home/lamp on\n"


def test_a_broker_without_a_state_directory_leaves_nothing(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with running("broker", "--port", "0", env=environment) as process:
        assert "serves MQTT" in process.stdout.readline()
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_broker_with_a_state_directory_remembers(tmp_path):
    state = str(tmp_path / "kept")
    incarnations = []
    for _ in range(2):
        with broker("--state", state) as (process, port):
            incarnations.append(report(port)["incarnation"])
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=DEADLINE_S)
    assert incarnations[1] == incarnations[0] + 1


LOADS_FOR_EVER = """
from agent.cli import main
from broker.store import Store

def boot(store):
    print("it loads", flush=True)
    while True:
        pass

Store.boot = boot
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["run", "broker"])
def test_who_is_told_to_end_while_memory_is_loaded_ends_at_once(tmp_path, command, number):
    state = tmp_path / "state"
    arguments = ["broker", "--port", "0", "--state", state]
    if command == "run":
        arguments = ["run", "--config", device_toml(tmp_path)]
    with started([sys.executable, "-c", LOADS_FOR_EVER, *map(str, arguments)]) as process:
        assert process.stdout.readline() == "it loads\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_a_broker_serves_and_ends_whichever_streams_are_closed(closed):
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, "broker", "--port", "0"]
    with started(command) as process:
        assert "serves MQTT" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0


def test_a_broker_whose_reader_is_gone_shows_itself_all_the_same():
    reader, writer = os.pipe()
    os.close(reader)
    port = free_ports(1)
    with subprocess.Popen([*PROGRAM, "broker", "--port", str(port)], stdout=writer) as process:
        os.close(writer)
        try:
            ask_until(lambda: flockmq("status", "-p", port), lambda told: told.code == 0)
        finally:
            process.terminate()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_commands_do_without_streams_that_are_closed(tmp_path, closed):
    made = ["ca", "init", "--directory", str(tmp_path / "ca")]
    for arguments in (["doctor"], made, ["ca", "init", "Not a name"], ["user", "add", "ann"]):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, *arguments],
            cwd=tmp_path, input="", capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert done.returncode == (0 if arguments in (["doctor"], made) else 2), done.stderr


def test_what_standard_output_has_no_bytes_for_is_shown_as_an_escape():
    with broker() as (_, port):
        publish(port, "home/lamp", "on…", "-r")
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        shown = good("watch", "home/#", "-p", port, "-C", "1", env=environment)
        assert shown.endswith(" on\\u2026\n")


def test_watch_ends_quietly_at_ctrl_c():
    with broker() as (_, port):
        publish(port, "home/lamp", "on", "-r")
        with running("watch", "home/#", "-p", port) as watch:
            assert "home/lamp" in watch.stdout.readline()
            watch.send_signal(signal.SIGINT)
            out, err = watch.communicate(timeout=DEADLINE_S)
            assert watch.returncode == 130
            assert out + err == ""


def test_watch_says_when_the_broker_goes():
    with broker() as (process, port):
        publish(port, "home/lamp", "on", "-r")
        with running("watch", "home/#", "-p", port) as watch:
            assert "home/lamp" in watch.stdout.readline()
            process.send_signal(signal.SIGTERM)
            _, err = watch.communicate(timeout=DEADLINE_S)
            assert watch.returncode == 2
            assert re.fullmatch(r"flockmq: the broker on .* has ended the connection; .*\n", err)


def test_status_of_what_is_no_report_is_one_line():
    with broker() as (_, port):
        publish(port, "local/flockmq/status", '{"device": 7}', "-r")
        assert_one_line(
            flockmq("status", "-p", port),
            "is no report of a device: .*device.*does another program",
        )
        publish(port, "local/flockmq/status", '{"more":' + "[" * 2_000, "-r")
        for command in (("status",), ("model", "status")):
            assert_one_line(flockmq(*command, "-p", port), "no report of a (flockmq )?device")


@contextlib.contextmanager
def mosquitto():
    """A broker that is not flockmq's, and its port."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    for _ in range(10):  # it takes no port 0, and a free one may be gone when it gets there
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = str(probe.getsockname()[1])
        with subprocess.Popen([program, "-p", port], stderr=subprocess.PIPE, text=True) as process:
            try:
                if any(line.endswith(" running\n") for line in process.stderr):
                    yield port
                    return
            finally:
                process.terminate()
    pytest.fail("mosquitto found no free port")


def test_status_of_a_foreign_broker_is_one_line():
    with mosquitto() as port:
        assert_one_line(flockmq("status", "-p", port), "so it is not flockmq's")


def test_a_sensor_beside_device_toml_is_heard(tmp_path):
    shutil.copy(EXAMPLES / "parking_sensor.py", tmp_path / "my_parking_sensor.py")
    sensor = "[sensor]\nfactory = 'my_parking_sensor:make'\noptions = { period_s = 0.05 }\n"
    with device(device_toml(tmp_path, sensor)) as (_, port, _):
        command = ["watch", "flock/v1/town/sensor/lot-1/+", "-p", port, "-C", "1"]
        heard = good(*command)
        assert re.search(r" ms flock/v1/town/sensor/lot-1/junction \{", heard)
        assert "unreadable" not in heard


def test_status_of_a_plain_broker_says_that_it_has_no_agent():
    with broker("--name", "kitchen") as (_, port):
        shown = good("status", "-p", port)
        assert "kitchen, a broker without an agent" in shown
        assert " 0," not in shown.partition("counted: ")[2], "what did not happen is not told"
        assert report(port)["device"] == "kitchen"


def test_a_device_with_sensor_and_model_runs_and_shows_itself(tmp_path):
    config = device_toml(
        tmp_path,
        "[sensor]\noptions = { junction = 'j-1-1', speed = 50 }\n"
        "[model]\noptions = { junction = 'j-1-1' }\n",
    )
    with device(config) as (process, port, _):
        said = report(port)
        assert said["device"] == "lot-1"
        assert said["site"] == "town"
        shown = good("status", "-p", port)
        assert "lot-1 of site town, incarnation " in shown
        assert "no identity: bundles carry no tag" in shown
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
        assert "Traceback" not in err
    assert (tmp_path / "state" / "lot-1" / "mesh.sqlite").exists()


def test_an_invalid_payload_is_counted_and_shown(tmp_path):
    with device(device_toml(tmp_path)) as (_, port, _):
        publish(port, "flock/v1/town/obstacle/lot-1/x", '{"kind": 7}')
        said = ask_until(lambda: report(port), lambda said: said["invalid"])
        assert said["invalid"] == {"obstacle": 1}
        assert "flock/v1/town/obstacle/lot-1/x" in said["last_invalid"]


def test_one_port_serves_one_program(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_line(flockmq("broker", "--port", port), f"{port}.*another program listens")
        path = tmp_path / "device.toml"
        path.write_text(f'device = "a"\n[broker]\nport = {port}')
        told = flockmq("run", "--config", path)
        assert told.code == 2
        assert "another program listens" in told.err
        assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prot = 1", "did you mean"),
        ("[sensor]\noptions = { junction = 'nowhere' }", "there is no trace"),
        ("[sensor]\nfactory = 'no_such:make'", "put the module beside"),
        (
            "[model]\ndirectory = 'nowhere'",
            "nowhere holds no folder that `flockmq model pack` has written",
        ),
        ("[model]\noptions = { junction = 'nowhere' }", "has no junction"),
    ],
)
def test_what_a_device_cannot_use_is_one_line(tmp_path, text, reason):
    assert_one_line(flockmq("run", "--config", device_toml(tmp_path, text)), reason)


def test_a_state_directory_serves_one_device(tmp_path):
    config = device_toml(tmp_path)
    with device(config):
        assert_one_line(flockmq("run", "--config", config), "in use by another")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("run", "--config", "/nonexistent/device.toml"), "cannot be read"),
        (("broker", "--host", "0.0.0.0"), "reached from outside"),
        (("broker", "--name", "My Broker"), "is no id"),
        (("broker", "--neighbour", "kitchen"), "not name=host:port"),
        (("broker", "--neighbour", "broker=127.0.0.1:1"), "this broker itself"),
        (("broker", "--neighbour", "kitchen=192.0.2.7:1883"), "is on another machine"),
        (("status", "--port", "1"), "no MQTT broker answers"),
        (("watch", "--port", "1"), "no MQTT broker answers"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, reason):
    told = flockmq(*arguments)
    assert_one_line(told, reason)
    assert told.out == ""


def test_a_filter_that_is_none_is_refused():
    told = flockmq("watch", "a/#/b")
    assert told.code == 2
    assert "# before its end" in told.err
    assert "Traceback" not in told.err


def test_doctor_says_what_to_do(tmp_path):
    shown = good("doctor", "--config", device_toml(tmp_path))
    assert "device lot-1 of site town" in shown
    assert "TFLite runtime: " in shown
    broken = flockmq("doctor", "--config", device_toml(tmp_path, "prot = 1"))
    assert broken.code == 1
    assert "did you mean" in broken.out


AT_A_JUNCTION = "options = { junction = 'j-1-1' }"


def test_doctor_looks_at_the_models(tmp_path):
    shown = good("doctor", "--config", device_toml(tmp_path, f"[model]\n{AT_A_JUNCTION}"))
    assert re.search(r"ok  models: forecaster 1, forecaster 2", shown)
    broken = flockmq("doctor", "--config", device_toml(tmp_path, "[model]\ndirectory = 'none'"))
    assert broken.code == 1
    assert re.search(r"missing  models: .*none holds no folder", broken.out)


def test_doctor_makes_sensor_and_features(tmp_path):
    text = f"[sensor]\n{AT_A_JUNCTION}\n[model]\n{AT_A_JUNCTION}"
    shown = good("doctor", "--config", device_toml(tmp_path, text))
    assert re.search(r"ok  sensor: agent.sensors.trace:make\n +ok  features: agent.forecast", shown)
    elsewhere = flockmq("doctor", "--config", device_toml(tmp_path, "[sensor]"))
    assert elsewhere.code == 1
    assert re.search(r"missing  sensor: there is no trace .*; set junction in", elsewhere.out)
    (tmp_path / "my_lamp.py").write_text("def make(device, options):\n    return options['x']\n")
    named = "[sensor]\nfactory = 'my_lamp:make'\n[model]\nfeatures = 'my_lamp:mak'"
    broken = flockmq("doctor", "--config", device_toml(tmp_path, named))
    assert broken.code == 1
    assert re.search(r"missing  sensor: factory my_lamp:make: it raised KeyError: 'x'", broken.out)
    assert re.search(r"missing  features: factory my_lamp:mak: .* no callable mak", broken.out)


def test_doctor_says_how_neighbours_are_found(tmp_path):
    shown = good("doctor", "--config", device_toml(tmp_path))
    assert "topology static: 0 named, 0 seeds, mDNS off" in shown
    assert "mDNS c" not in shown
    shown = flockmq("doctor", "--config", device_toml(tmp_path, "[discovery]\nmdns = true")).out
    assert "topology nearest: 0 named, 0 seeds, mDNS on" in shown
    assert re.search("mDNS can be sent from 127.0.0.1|mDNS cannot be used on 127.0.0.1", shown)
    nowhere = "host = '::1'\n[discovery]\nmdns = true"
    shown = flockmq("doctor", "--config", device_toml(tmp_path, nowhere)).out
    assert re.search("mDNS cannot be used on ::1: .*\n.*name seeds", shown)


def test_status_shows_where_neighbours_come_from(tmp_path):
    text = "[discovery]\nseeds = ['127.0.0.1:9']\n[[neighbour]]\nname = 'lot-2'\nhost = '127.0.0.1'\nport = 9"
    with device(device_toml(tmp_path, text)) as (_, port, _):
        shown = ask_until(
            lambda: good("status", "-p", port), lambda text: "seed 127.0.0.1:9: " in text
        )
        assert "topology: nearest, 3 near and 2 far" in shown
        assert "known by configuration: lot-2\n" in shown
        assert "mDNS" not in shown


@pytest.mark.parametrize(
    ("imported", "spared"),
    [
        ("agent.cli", "amqtt"),  # `--help` takes nothing of the broker, nor of the runtime
        ("agent.cli", "numpy"),
        ("agent.commands.serve, agent.device", "numpy"),  # 12 MB, on every device without a model
    ],
)
def test_what_is_not_used_is_not_imported(imported, spared):
    script = f"import sys, {imported}; sys.exit({spared!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=DEADLINE_S)
