"""Single brokers for the benchmark `broker`: this device, stock amqtt, Mosquitto, and the least that Python does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from amqtt.broker import Broker

from bench.role import Part
from bench.stage import free_port, program
from broker.commits import Durability
from broker.node import Node
from broker.store import Store

if TYPE_CHECKING:
    from bench.stage import Stage

__all__ = ["BROKERS", "Amqtt", "Device", "PlainBroker"]

_MOSQUITTO: Final = """\
listener {port} 127.0.0.1
listener {websocket_port} 127.0.0.1
protocol websockets
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
"""


@dataclass(frozen=True, slots=True)
class PlainBroker:
    """A broker that runs."""

    pid: int
    port: int
    websocket_port: int | None = None
    matches: bool = True
    """Whether it looks at topics."""


class Device(Part):
    """One device with the defaults of `flockmq run`, but for the durability: no neighbour, no agent."""

    async def open(self, *, state: str, durability: str) -> list[int]:
        """Start; returns the ports."""
        kept = Durability(durability)
        self._node = Node("bench", Store(Path(state)), port=0, websocket_port=0, durability=kept)
        await self._node.start()
        return [self._node.port, self._node.websocket_port]

    async def close(self) -> None:
        """Stop."""
        await self._node.stop()


class Amqtt(Part):
    """amqtt as it is installed, with its smallest configuration, on uvloop like the device."""

    async def open(self) -> list[int]:
        """Start; returns the ports."""
        self._broker = Broker(
            {
                "listeners": {
                    "default": {"type": "tcp", "bind": "127.0.0.1:0"},
                    "websocket": {"type": "ws", "bind": "127.0.0.1:0"},
                },
                "plugins": {
                    "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
                },
            }
        )
        await self._broker.start()
        servers = (self._broker._servers[name].instance for name in ("default", "websocket"))  # noqa: SLF001 - the only way to its ports
        return [next(iter(server.sockets)).getsockname()[1] for server in servers]


async def _start_role(stage: Stage, name: str, module: str, **settings: Any) -> PlainBroker:
    role = await stage.role(name, f"bench.systems.plain_brokers:{module}", **settings)
    return PlainBroker(role.pid, *role.opened)


async def _flockmq(stage: Stage, durability: Durability = Durability.POWER) -> PlainBroker:
    state = str(stage.directory("state"))
    return await _start_role(stage, "flockmq", "Device", state=state, durability=durability)


async def _flockmq_process(stage: Stage) -> PlainBroker:
    return await _flockmq(stage, Durability.PROCESS)


async def _amqtt(stage: Stage) -> PlainBroker:
    return await _start_role(stage, "amqtt", "Amqtt")


async def _relay(stage: Stage) -> PlainBroker:
    role = await stage.role("relay", "bench.systems.relay:Relay")
    return PlainBroker(role.pid, role.opened, matches=False)


async def _mosquitto(stage: Stage) -> PlainBroker | None:
    path = program("mosquitto")
    if path is None:
        return None
    port, websocket_port = free_port(), free_port()
    config = stage.directory("mosquitto") / "mosquitto.conf"
    config.write_text(_MOSQUITTO.format(port=port, websocket_port=websocket_port))
    pid = await stage.daemon("mosquitto", [path, "-c", str(config)], port)
    return PlainBroker(pid, port, websocket_port)


BROKERS: Final = {
    "flockmq": _flockmq,
    "flockmq, durability process": _flockmq_process,
    "amqtt": _amqtt,
    "mosquitto": _mosquitto,
    "relay in Python": _relay,
}
"""By name, what starts it; None comes back where it is not installed."""
