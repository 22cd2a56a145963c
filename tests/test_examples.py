"""What the README shows of a device of one's own, done."""

import asyncio
import hashlib
import json
import shutil
import tomllib
from pathlib import Path

import pytest

from agent.config import load
from agent.device import Device
from tests.node.fleet import until

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
    models = directory / "models"
    models.mkdir()
    data = MODEL.read_bytes()
    (models / "occupancy-1.tflite").write_bytes(data)
    entry = {"name": "occupancy", "version": "1", "counter": 1, "file": "occupancy-1.tflite"}
    entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (models / "models.json").write_text(json.dumps([entry]))
    del entry["file"]
    return entry


async def publish(port, topic, payload):
    process = await asyncio.create_subprocess_exec(
        "mosquitto_pub", "-p", str(port), "-q", "1", "-r", "-t", topic, "-m", payload
    )
    assert await process.wait() == 0


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="no mosquitto-clients")
def test_a_sensor_and_a_model_of_ones_own(tmp_path):
    manifest = prepare(tmp_path)
    heard = {}

    async def story():
        device = Device(load(tmp_path / "device.toml"))
        device.node.subscribe(lambda batch: heard.update({m.topic: m.payload for m in batch}))
        await device.start()
        topic = "flock/v1/town/model/occupancy"
        await publish(device.node.port, topic, json.dumps(manifest))
        inference = "flock/v1/town/inference/lot-1/occupancy"
        await until(lambda: inference in heard, "an inference")
        result = json.loads(heard[inference])
        assert result["version"] == "1"
        assert len(result["forecast"]) == 3
        assert json.loads(heard["flock/v1/town/sensor/lot-1/junction"])["standing"]
        assert "flock/v1/town/obstacle/lot-1/row-0" in heard
        status = json.loads(heard["flock/v1/town/model-status/lot-1/occupancy"])
        assert status["state"] == "active"
        await device.stop()

    asyncio.run(story())


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="no mosquitto-clients")
def test_a_model_that_does_not_load_leaves_the_one_before_it(tmp_path):
    manifest = prepare(tmp_path)
    broken = MODEL.read_bytes()[:-40]
    (tmp_path / "models" / "broken.tflite").write_bytes(broken)
    models = json.loads((tmp_path / "models" / "models.json").read_text())
    worse = {"name": "occupancy", "version": "2", "counter": 2, "file": "broken.tflite"}
    worse |= {"sha256": hashlib.sha256(broken).hexdigest(), "size_bytes": len(broken)}
    (tmp_path / "models" / "models.json").write_text(json.dumps([*models, worse]))
    del worse["file"]
    states = []

    async def story():
        device = Device(load(tmp_path / "device.toml"))
        topic = "flock/v1/town/model/occupancy"
        status_topic = "flock/v1/town/model-status/lot-1/occupancy"
        device.node.subscribe(
            lambda batch: states.extend(
                json.loads(m.payload) for m in batch if m.topic == status_topic
            )
        )
        await device.start()
        await publish(device.node.port, topic, json.dumps(manifest))
        await until(lambda: states, "the first version")
        await publish(device.node.port, topic, json.dumps(worse))
        await until(lambda: len(states) > 1, "the second version")
        missing = worse | {"version": "3", "counter": 3, "sha256": "0" * 64}
        await publish(device.node.port, topic, json.dumps(missing))
        await until(lambda: len(states) > 2, "the third version")
        report = device.report()
        assert report["models"]["occupancy"]["version"] == "1"
        before = report["worker"]["inferences"]
        await until(lambda: device.report()["worker"]["inferences"] > before, "it goes on")
        await device.stop()

    asyncio.run(story())
    assert [state["state"] for state in states] == ["active", "failed", "missing"]
    assert states[1]["reason"]
