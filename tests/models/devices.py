"""Devices that follow a version, and versions for them."""

import time
from contextlib import asynccontextmanager
from pathlib import Path

from agent.commands.model_fleet import At
from agent.config import BrokerConfig, Config, ModelConfig
from agent.device import Device
from agent.models.manifest import Rollout, encode_manifest, publishable
from agent.models.package import write_package
from agent.models.packing import Described, pack
from broker.model_envelope import write_envelope

DATA = Path(__file__).parents[1] / "data" / "models"
SITE = "town"
TOPIC = f"flock/v1/{SITE}/model/occupancy"


def package(directory, version, file):
    described = Described("occupancy", version, "a test", Rollout(), 0.0, 1.0, 1, None)
    draft, contents = pack(described, [(file, (DATA / file).read_bytes())])
    write_package(directory / f"occupancy-{version}", draft, contents)
    return draft


def unsigned(draft, counter, life_ms=60_000):
    now_ms = time.time_ns() // 1_000_000
    made = {"counter": counter, "made_ms": now_ms - 1_000, "expires_ms": now_ms + life_ms}
    return write_envelope(encode_manifest(publishable(draft, site=SITE, **made)))


def device(tmp_path, name, neighbours=(), *, models=None, unsigned=True):
    return Device(
        Config(
            device=name,
            site=SITE,
            state=str(tmp_path / name),
            broker=BrokerConfig(port=0),
            neighbour=neighbours,
            model=ModelConfig(
                name="occupancy",
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
async def one(tmp_path, name="a", **options):
    """A device that runs, and where a command finds it."""
    each = device(tmp_path, name, **options)
    await each.start()
    try:
        yield each, At("127.0.0.1", each.node.port, None)
    finally:
        await each.stop()
