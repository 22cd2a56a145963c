"""docs/bridges.md does what it says, as pasted."""

import asyncio
import re
import subprocess
from pathlib import Path

from agent.config import load
from agent.device import Device
from tests.foreign.brokers import foreign, needs_mosquitto
from tests.node.fleet import established, until

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
