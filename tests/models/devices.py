"""Devices that follow a version."""

from contextlib import asynccontextmanager

from agent.commands.model_fleet import At
from agent.config import BrokerConfig, Config, ModelConfig, NeighbourConfig
from agent.device import Device
from tests.models.follow import SITE


def device(tmp_path, name, neighbours=(), *, models=None, unsigned=True, follows="occupancy"):
    """One that follows a model; `follows` None: it has none."""
    return Device(
        Config(
            device=name,
            site=SITE,
            state=str(tmp_path / name),
            broker=BrokerConfig(port=0),
            neighbour=neighbours,
            model=follows
            and ModelConfig(
                name=follows,
                directory=models and str(models),
                options={"junction": "j-1-1"},
                unsigned=unsigned,
            ),
        )
    )


def state(device):
    return device.report()["models"].get("occupancy", {})


def running(device, version):
    return lambda: state(device).get("version") == version and state(device)["state"] == "active"


@asynccontextmanager
async def pair(tmp_path, models):
    """Device a, which has a folder of versions, and device b, which has a for a neighbour."""
    async with one(tmp_path, models=models) as (a, at):
        there = NeighbourConfig(name="a", host=at.host, port=at.port)
        async with one(tmp_path, "b", neighbours=(there,)) as (b, _):
            yield a, b


@asynccontextmanager
async def one(tmp_path, name="a", **options):
    """A device that runs, and where a command finds it."""
    each = device(tmp_path, name, **options)
    await each.start()
    try:
        yield each, At("127.0.0.1", each.node.port, None)
    finally:
        await each.stop()
