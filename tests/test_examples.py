"""What the README shows of a device of one's own, done."""

import asyncio
import io
import json
import shlex
import shutil
import struct
import time
import tomllib
from pathlib import Path

import msgspec
from rich.console import Console

from agent.commands.model_fleet import At, ask
from agent.commands.status import render
from agent.commands.status_form import Report
from agent.config import load
from agent.device import Device
from agent.infer.kinds import Kind
from agent.models.content import content_of
from agent.models.manifest import Variant, encode_manifest, publishable
from agent.models.package import read_package, write_package
from broker.model_envelope import write_envelope
from examples.occupancy_features import OccupancyFeatures
from tests.program import ask_until, good
from tests.program import device as running_device
from tests.waiting import until

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "tests" / "data" / "models" / "dense.tflite"  # takes (1, 4), gives (1, 3)


def readme_toml():
    """The device.toml that the README shows."""
    return (ROOT / "README.md").read_text().partition("```toml\n")[2].partition("```")[0]


def prepare(directory):
    """A folder as a reader of the README would have it."""
    shutil.copytree(ROOT / "examples", directory / "examples")
    text = readme_toml()
    assert tomllib.loads(text)["broker"]["port"] == 1883
    (directory / "device.toml").write_text(text.replace("port = 1883", "port = 0"))
    shutil.copy(MODEL, directory / "occupancy.tflite")


def readme_command(name):
    """A command that the README shows, without the program."""
    lines = (ROOT / "README.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f".venv/bin/flockmq {name} ")]
    return shlex.split(line)[1:]


def pack(directory):
    """As the README packs it."""
    return good(*readme_command("model pack"), cwd=directory)


def test_a_sensor_and_a_model_of_ones_own(tmp_path):
    prepare(tmp_path)
    assert "takes (1, 4) float32\ngives (1, 3) float32\n" in pack(tmp_path)
    heard = {}

    async def story():
        device = Device(load(tmp_path / "device.toml"))
        device.node.subscribe(lambda batch: heard.update({m.topic: m.payload for m in batch}))
        await device.start()
        arguments = (*readme_command("model publish"), "-p", device.node.port)
        said = await asyncio.to_thread(good, *arguments, cwd=tmp_path)
        assert "unsigned = true" in said
        assert "occupancy version 1 is current at site town, counter 1" in said
        inference = "flock/v1/town/inference/lot-1/occupancy"
        await until(lambda: inference in heard, "an inference")
        result = json.loads(heard[inference])
        assert result["version"] == "1"
        assert len(result["forecast"]) == 3
        assert json.loads(heard["flock/v1/town/sensor/lot-1/junction"])["standing"]
        assert "flock/v1/town/obstacle/lot-1/row-0" in heard
        status = json.loads(heard["flock/v1/town/model-status/lot-1/occupancy"])
        assert (status["state"], status["running"]) == ("active", "1")
        shown = await asyncio.to_thread(good, "model", "status", "-p", device.node.port)
        assert shown.split()[-5:] == ["lot-1", "occupancy", "1", "1", "active"]
        await device.stop()

    asyncio.run(story())


def unsigned(draft, counter):
    """What a device without identity takes from anybody."""
    now_ms = time.time_ns() // 1_000_000
    made = {"counter": counter, "made_ms": now_ms, "expires_ms": now_ms + 60_000}
    return write_envelope(encode_manifest(publishable(draft, site="town", **made)))


def test_a_model_that_does_not_load_leaves_the_one_before_it(tmp_path):
    prepare(tmp_path)
    pack(tmp_path)
    draft = read_package(tmp_path / "models" / "occupancy-1").draft
    broken = MODEL.read_bytes()[:-40]
    variants = (Variant(kind=Kind.TFLITE, content=content_of(broken)),)
    worse = msgspec.structs.replace(draft, version="2", variants=variants)
    write_package(tmp_path / "models" / "occupancy-2", worse, {Kind.TFLITE: broken})
    variants = (Variant(kind=Kind.TFLITE, content=content_of(b"nowhere")),)
    missing = msgspec.structs.replace(draft, version="3", variants=variants)
    states = []

    async def story():
        device = Device(load(tmp_path / "device.toml"))
        status_topic = "flock/v1/town/model-status/lot-1/occupancy"
        device.node.subscribe(
            lambda batch: states.extend(
                json.loads(m.payload) for m in batch if m.topic == status_topic
            )
        )
        await device.start()
        for number, each in enumerate((draft, worse, missing), 1):
            await device.publish_model(unsigned(each, number))
            await until(lambda number=number: len(states) >= number, f"version {number}")
        report = device.report()
        assert report["models"]["occupancy"]["version"] == "1"
        before = report["worker"]["inferences"]
        await until(lambda: device.report()["worker"]["inferences"] > before, "it goes on")
        await device.stop()

    asyncio.run(story())
    assert [state["state"] for state in states] == ["active", "failed", "missing"]
    assert {state["running"] for state in states} == {"1"}
    assert states[1]["reason"]


def documented_commands():
    """What docs/models.md shows of a version's life, without the program."""
    text = (ROOT / "docs" / "models.md").read_text().partition("```\n")[2].partition("```")[0]
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines()]


def replaced(arguments, port):
    """The same for a device on loopback, and without long waits."""
    where = {"192.0.2.7": "127.0.0.1", "60": "1"}
    arguments = [where.get(argument, argument) for argument in arguments]
    return [*arguments, "-p", port] if "--host" in arguments else arguments


def test_a_version_lives_as_the_documentation_shows(tmp_path, monkeypatch):
    """Packed from a file, published from a desk, tuned, published as a delta with canaries, rolled back."""
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    tuned = bytearray(MODEL.read_bytes())
    at = tuned.index(struct.pack("<f", -0.5))
    tuned[at : at + 4] = struct.pack("<f", -0.75)
    (tmp_path / "tuned.tflite").write_bytes(tuned)
    for arguments in (
        ("init", "town"),
        ("issue", "lot-1"),
        ("issue", "desk", "--role", "operator"),
    ):
        good("ca", *arguments)
    text = (tmp_path / "device.toml").read_text().replace("unsigned = true", "unsigned = false")
    text = text.replace('directory = "models"\n', "")
    text += '[tls]\nidentity = "identity-lot-1"\nhost = "127.0.0.1"\nport = 0\n'
    (tmp_path / "device.toml").write_text(text)
    said = {}
    with running_device(tmp_path / "device.toml", cwd=tmp_path) as (_, plain, secured):
        for arguments in documented_commands():
            said.setdefault(arguments[1], []).append(good(*replaced(arguments, secured)))
        ask_until(
            lambda: good("model", "status", "-p", plain),
            lambda shown: shown.splitlines()[1].split()[2:5] == ["1", "1", "active"],
        )
        manifest = heard_manifest(plain)
    assert "handed over to lot-1: 516 bytes\n" in said["publish"][0]
    assert "delta from version 1, tflite: " in said["pack"][1]
    assert "counter 2" in said["publish"][1]
    assert manifest["counter"] == 3
    assert "version 1 is current at site town, counter 3" in said["rollback"][0]
    assert said["key"][0].count("model key ") == 1


def heard_manifest(port):
    told = asyncio.run(ask(At("127.0.0.1", port, None), ["flock/v1/town/model/occupancy"]))
    (payload,) = told.values.values()
    return json.loads(payload)["manifest"]


def shown(report):
    out = io.StringIO()
    render(msgspec.convert(report, Report), Console(file=out, width=300))
    return out.getvalue()


def test_state_that_is_too_old_is_not_decided_on_until_it_is_fresh_again(tmp_path, monkeypatch):
    prepare(tmp_path)
    pack(tmp_path)
    path = tmp_path / "device.toml"
    path.write_text(path.read_text() + "state_age_max_ms = 50\ndeadline_ms = 60000\n")
    draft = read_package(tmp_path / "models" / "occupancy-1").draft
    inferences = []
    age_ns = [50_000_001]
    monkeypatch.setattr(OccupancyFeatures, "state_age_ns", lambda _: age_ns[0])

    async def story():
        device = Device(load(path))
        device.node.subscribe(
            lambda batch: inferences.extend(m for m in batch if "/inference/" in m.topic)
        )
        await device.start()
        await device.publish_model(unsigned(draft, 1))
        await until(lambda: device.report()["worker"].get("stale", 0) >= 2, "it is counted")
        assert inferences == []
        text = shown(device.report())
        assert " on state older than 50 ms," in text
        assert " 0 later than 60000 ms," in text
        assert "StateTooOld: the state beside it is older than 50 ms" in text
        age_ns[0] = 50_000_000
        await until(lambda: inferences, "it decides again")
        assert device.report()["worker"]["failed"] == 0
        await device.stop()

    asyncio.run(story())
