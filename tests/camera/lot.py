"""A device that looks at a parking lot."""

from contextlib import asynccontextmanager

from agent.config import load
from agent.device import Device
from tests.waiting import until

OBSTACLE = "flock/v1/home/obstacle/lot-1/seen-1"


@asynccontextmanager
async def looking(path):
    """Device `lot-1` of that configuration once it has seen something, and what it says last on each topic."""
    heard = {}
    device = Device(load(path))
    device.node.subscribe(lambda batch: heard.update({m.topic: m.payload for m in batch}))
    await device.start()
    try:
        await until(lambda: OBSTACLE in heard, "an obstacle")
        yield device, heard
    finally:
        await device.stop()
