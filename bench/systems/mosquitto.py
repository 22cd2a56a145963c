"""Mosquitto 2: three brokers in a row, each bridged to the next, QoS 1, as its manual has it.

The near broker's bridge carries `flock/#` out to the middle, the middle's to the far one. Queues are unlimited, so that
nothing is dropped (the default drops beyond 1,000), and Nagle's algorithm is off on every socket. Bridges stand when a
probe passes the whole row.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiomqtt

from bench.stage import BenchFailed, Stage, free_port, program
from bench.systems.row import Row

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Mosquitto", "start_brokers"]

_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
"""
_BRIDGE = """\
connection {name}
address 127.0.0.1:{to}
topic # out 1
bridge_protocol_version mqttv311
try_private true
notifications false
cleansession true
restart_timeout 1
"""
PROBE_TOPIC = "probe/row"
PROBE_S = 20.0


def missing() -> str | None:
    """Why it cannot take part."""
    return None if program("mosquitto") else "mosquitto is not installed (apt install mosquitto)"


async def start_brokers(stage: Stage) -> tuple[int, int]:
    """Start three bridged brokers; returns the ports of the two ends when a probe has passed them.

    Raises:
        BenchFailed: They do not pass anything.
    """
    path = program("mosquitto")
    assert path is not None
    far = to = 0
    for name in ("c", "b", "a"):
        port = free_port()
        config = stage.directory(f"mosquitto-{name}") / "mosquitto.conf"
        config.write_text(
            _CONFIG.format(port=port) + (_BRIDGE.format(name=name, to=to) if to else "")
        )
        await stage.daemon(f"mosquitto-{name}", [path, "-c", str(config)], port)
        far, to = far or port, port
    await _wait_probe(to, far)
    return to, far


async def _wait_probe(near: int, far: int) -> None:
    try:
        async with (
            asyncio.timeout(PROBE_S),
            aiomqtt.Client("127.0.0.1", far, identifier="probe-far") as there,
            aiomqtt.Client("127.0.0.1", near, identifier="probe-near") as here,
        ):
            await there.subscribe(PROBE_TOPIC, qos=1)
            probing = asyncio.create_task(_probe(here))
            async for _ in there.messages:
                probing.cancel()
                return
    except TimeoutError:
        raise BenchFailed(f"the bridges carry nothing after {PROBE_S:g} s") from None


async def _probe(client: aiomqtt.Client) -> None:
    while True:
        await client.publish(PROBE_TOPIC, b"?", qos=1)
        await asyncio.sleep(0.1)


class Mosquitto:
    """A row of Mosquitto brokers with Python clients at both ends.

    Args:
        name: As the table shows it.
        far: The role that reduces.
    """

    def __init__(self, name: str, far: str) -> None:
        self.name = name
        self._far = far

    def missing(self) -> str | None:
        """Why it cannot take part."""
        return missing()

    async def start(self, stage: Stage, stamps: Path) -> Row:
        """Start brokers and clients."""
        near_port, far_port = await start_brokers(stage)
        far = await stage.role(
            "far", f"bench.systems.clients:{self._far}", stamps=str(stamps), port=far_port
        )
        near = await stage.role(
            "near", "bench.systems.clients:PahoNear", stamps=str(stamps), port=near_port
        )
        return Row(near=near, far=far)
