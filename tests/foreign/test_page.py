"""docs/bridges.md does what it says, as pasted."""

import asyncio
import re
import subprocess
from pathlib import Path

import aiomqtt

from agent.config import load
from agent.device import Device
from broker import bridge_claims
from tests.foreign.brokers import foreign, needs_mosquitto
from tests.node.fleet import Listener, established
from tests.waiting import until

PAGE = (Path(__file__).parents[2] / "docs" / "bridges.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def toml(table):
    (text,) = [text for kind, text in BLOCKS if kind == "toml" and table in text]
    return text


@needs_mosquitto
def test_two_devices_meet_at_a_hub_as_pasted(tmp_path):
    (command,) = [text for kind, text in BLOCKS if not kind and "hub.key" in text]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)

    async def story():
        async with foreign("mosquitto", tmp_path) as hub:
            text = toml("[[hub]]").replace("[[hub]]", f"[[hub]]\nport = {hub.port}")
            devices = []
            for name in ("lot-1", "lot-2"):
                path = tmp_path / f"{name}.toml"
                own = text.replace('"lot-1"', f'"{name}"')
                path.write_text(own + "\n[broker]\nport = 0\n")
                devices.append(Device(load(path)))
                await devices[-1].start()
            one, other = devices
            await until(lambda: established(one.node) == {"lot-2"}, "a link")
            await until(lambda: established(other.node) == {"lot-1"}, "the same at the other end")
            for device in devices:
                await device.stop()

    asyncio.run(story())


@needs_mosquitto
def test_a_plants_machines_join_as_pasted(tmp_path, monkeypatch):
    monkeypatch.setattr(bridge_claims, "LISTEN_MS", 300)

    async def story():
        async with foreign("mosquitto", tmp_path) as broker:
            path = tmp_path / "device.toml"
            text = toml("[[bridge]]").replace("[[bridge]]", f"[[bridge]]\nport = {broker.port}")
            path.write_text(text + "\n[broker]\nport = 0\n")
            device = Device(load(path))
            heard = Listener(device.node)
            await device.start()
            await until(lambda: device.report()["bridges"][0]["state"] == "active", "the bridge")
            async with aiomqtt.Client("127.0.0.1", broker.port) as machine:
                await machine.subscribe("flock/#")
                await machine.publish("machines/press", b"12", 1)
                await until(lambda: heard.payloads("machines/press") == [b"12"], "what it says")
                async with asyncio.timeout(20):
                    status = await anext(machine.messages)
                assert str(status.topic) == "flock/v1/home/status/lot-1"
                assert b'"up"' in status.payload
            await device.stop()

    asyncio.run(story())
