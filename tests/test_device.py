"""Whole devices, linked on loopback."""

import asyncio
import contextlib
import json
import shutil

import msgspec

from agent.config import BrokerConfig, Config, ModelConfig, NeighbourConfig, SensorConfig
from agent.device import Device
from tests.node.fleet import established
from tests.waiting import until


def config(directory, name, neighbours=(), *, speed=50.0, model=False):
    return Config(
        device=name,
        site="town",
        state=str(directory / name),
        broker=BrokerConfig(port=0),
        neighbour=tuple(
            NeighbourConfig(name=n.node.device, host="127.0.0.1", port=n.node.port)
            for n in neighbours
        ),
        sensor=SensorConfig(options={"junction": "j-1-1", "speed": speed}) if speed else None,
        model=ModelConfig(options={"junction": "j-1-1"}) if model else None,
    )


@contextlib.asynccontextmanager
async def pair(directory):
    """Devices a and b without sensors, of which a has dialled b and b knows a's status."""
    async with contextlib.AsyncExitStack() as stack:
        devices = []
        for name in "ba":
            device = Device(config(directory, name, devices, speed=0))
            await device.start()
            stack.push_async_callback(device.stop)
            devices.append(device)
        b, a = devices
        await until(lambda: "a" in b.world.snapshot().status, "a is known")
        yield a, b


def counts(device):
    """The totals of the counter that a device hears, in order."""
    heard = []

    def take(batch):
        heard.extend(
            device.world.snapshot().counts["obstacles"] for m in batch if "/count/" in m.topic
        )

    device.node.subscribe(take)
    return heard


def test_a_count_never_falls_though_its_device_loses_its_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.rhythm.COUNT_FROM_S", 0.5)
    monkeypatch.setattr("agent.rhythm.HEARTBEAT_S", 0.1)

    async def story():
        b = Device(config(tmp_path, "b", speed=0))
        await b.start()
        heard = counts(b)
        for _ in range(2):
            a = Device(config(tmp_path, "a", [b]))
            await a.start()
            so_far = len(heard)
            await until(lambda so_far=so_far: len(heard) > so_far + 2, "counts")
            await a.stop()
            shutil.rmtree(tmp_path / "a")
        assert heard == sorted(heard)
        assert heard[-1] > heard[0] > 0
        await b.stop()

    asyncio.run(story())


def test_a_device_that_goes_says_so_and_one_that_comes_back_is_up_again(tmp_path):
    async def story():
        b = Device(config(tmp_path, "b", speed=0))
        await b.start()
        states = []
        b.node.subscribe(
            lambda batch: states.extend(
                json.loads(m.payload)["state"] for m in batch if m.topic.endswith("/status/a")
            )
        )
        for _ in range(2):
            a = Device(config(tmp_path, "a", [b], speed=0))
            await a.start()
            await until(lambda: "a" in established(b.node), "a link")
            await until(lambda: states and states[-1] == "up", "up")
            await a.stop()
            await until(lambda: states[-1] == "down", "down")
        assert states == ["up", "down", "up", "down"]
        await b.stop()

    asyncio.run(story())


def test_a_device_that_is_called_lost_refutes_it(tmp_path):
    async def story():
        async with pair(tmp_path) as (_, b):
            known = b.world.snapshot().status["a"]
            lost = msgspec.structs.replace(known, state="lost", by="b")
            await b.node.publish("flock/v1/town/status/a", msgspec.json.encode(lost))
            await until(lambda: b.world.snapshot().status["a"].refutation == 1, "a refutation")
            assert b.world.snapshot().status["a"].state == "up"

    asyncio.run(story())


def test_a_device_that_is_called_lost_in_a_life_it_has_not_had_begins_one_above(tmp_path):
    async def story():
        async with pair(tmp_path) as (a, b):
            known = b.world.snapshot().status["a"]
            claimed = known.incarnation + 100
            heard = []
            b.node.subscribe(lambda batch: heard.extend(m.payload for m in batch))
            lie = msgspec.structs.replace(known, state="lost", by="b", incarnation=claimed)
            await b.node.publish("flock/v1/town/status/a", msgspec.json.encode(lie))
            await until(lambda: b.world.snapshot().status["a"].state == "up", "its denial")
            assert b.world.snapshot().status["a"].incarnation == a.node.incarnation == claimed + 1
            await a.node.publish("t", b"after", qos=1)
            await until(lambda: b"after" in heard, "what it says then")
            assert heard.count(b"after") == 1
            assert not b.node.statistics().gaps

    asyncio.run(story())


def test_a_device_that_lost_its_disk_is_up_again_in_everyones_eyes(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.rhythm.HEARTBEAT_S", 0.1)
    numbers = iter([1_000, 5, 6])  # the incarnations that devices without memory begin with

    async def story():
        monkeypatch.setattr("broker.mesh_table.secrets.randbelow", lambda _: next(numbers))
        a = Device(config(tmp_path, "a", speed=0))
        await a.start()
        b = Device(config(tmp_path, "b", [a], speed=0))
        await b.start()
        await until(lambda: "b" in a.world.snapshot().status, "b is known")
        await b.stop()
        await until(lambda: a.world.snapshot().status["b"].state == "down", "b is down")
        shutil.rmtree(tmp_path / "b")
        b = Device(config(tmp_path, "b", [a], speed=0))
        await b.start()
        await until(lambda: a.world.snapshot().status["b"].state == "up", "b is up for a")
        await until(lambda: b.world.snapshot().status["b"].state == "up", "b is up for itself")
        await b.stop()
        await a.stop()

    asyncio.run(story())


SENSORS = """
import time
import numpy
from agent.messages import Reading
from agent.sensors.sensor import Observation, Sighting

def reading(standing):
    return Reading(tick_s=1.0, phase=0, standing=standing, vehicles=standing,
                   speed_mps=(0.0,) * len(standing), at_ms=1)

class Sensor:
    ttl_ms = 10_000
    def __init__(self, kind):
        self.kind = kind
    async def observations(self):
        if self.kind == "numpy":
            yield Observation(time.monotonic_ns(), reading((numpy.int64(1),)), ())
        sightings = (Sighting("Row_1", "car", "", 1.0), Sighting("row-2", "car", "", 1.0))
        yield Observation(time.monotonic_ns(), reading((1, 2, 3)), sightings)
        raise OSError("serial port gone")

def make(device, options):
    return Sensor(options["kind"])
"""


def test_a_sensor_that_goes_wrong_is_heard_of_and_the_rest_goes_on(tmp_path, monkeypatch, caplog):
    (tmp_path / "odd_sensors.py").write_text(SENSORS)
    monkeypatch.syspath_prepend(str(tmp_path))

    async def story():
        for kind in ("numpy", "plain"):
            sensor = SensorConfig(factory="odd_sensors:make", options={"kind": kind})
            whole = config(tmp_path, "a", speed=0, model=True)
            device = Device(msgspec.structs.replace(whole, sensor=sensor))
            await device.start()
            seen = device.world.snapshot
            await until(lambda seen=seen: ("a", "row-2") in seen().obstacles, "the good sighting")
            await device.node.publish("still", b"here", qos=1)
            await until(lambda device=device: "sensor" in device.report(), "the sensor's end")
            told.append(device.report()["sensor"])
            await device.stop()

    told = []
    asyncio.run(story())
    assert {one["source"] for one in told} == {"odd_sensors"}
    assert {one["state"] for one in told} == {"failed"}
    assert any("serial port gone" in one["last_problem"] for one in told)
    assert "serial port gone" in caplog.text
    assert "'Row_1', whose id is not" in caplog.text
    assert "numpy" in caplog.text
    assert "the features failed" in caplog.text


def test_worlds_agree_and_a_rebooted_one_remembers(tmp_path):
    async def story():
        b = Device(config(tmp_path, "b", speed=0))
        await b.start()
        a = Device(config(tmp_path, "a", [b]))
        await a.start()
        await until(lambda: b.world.snapshot().obstacles, "obstacles")
        await b.stop()
        again = Device(config(tmp_path, "b", [a], speed=0))
        await again.start()
        await until(lambda: again.world.snapshot().obstacles, "obstacles again")
        a.stop_sensors()
        await a.node.committed()

        def agree():
            clock = max(a.clock(), again.clock())
            return a.digest(clock) == again.digest(clock)

        await until(agree, "the same digest")
        await a.stop()
        await again.stop()

    asyncio.run(story())
