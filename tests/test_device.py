"""Whole devices, linked on loopback."""

import asyncio
import json
import shutil

import msgspec

from agent.config import BrokerConfig, Config, ModelConfig, NeighbourConfig, SensorConfig
from agent.device import Device
from tests.node.fleet import established, until


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
        b = Device(config(tmp_path, "b", speed=0))
        await b.start()
        a = Device(config(tmp_path, "a", [b], speed=0))
        await a.start()
        await until(lambda: "a" in b.world.snapshot().status, "a is known")
        known = b.world.snapshot().status["a"]
        lost = msgspec.structs.replace(known, state="lost", by="b")
        await b.node.publish("flock/v1/town/status/a", msgspec.json.encode(lost))
        await until(lambda: b.world.snapshot().status["a"].refutation == 1, "a refutation")
        assert b.world.snapshot().status["a"].state == "up"
        await a.stop()
        await b.stop()

    asyncio.run(story())


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
