"""The fleet on paper: five junctions, a ring with one chord, one device.toml each.

Decides names, ports, neighbours, halves, and who is killed. The chord gives the ring a second
cycle, so duplicates are certain and have to be suppressed. The killed device is not the one whose
port people watch, and without it the rest is still a ring. Both halves of the cut stay connected
inside.
Assumes loopback. On failure: a port that is taken is a `PortTaken`, one line with the way out.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from broker.errors import FlockmqError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "CUT_OFF",
    "DEVICES",
    "HOST",
    "KILLED",
    "LINKS",
    "OPERATOR",
    "PORT",
    "SITE",
    "TLS_PORTS_ON",
    "TTL_MS",
    "WATCHED",
    "DevicePlan",
    "PortTaken",
    "check_ports",
    "fleet_plan",
    "neighbours_of",
]

HOST: Final = "127.0.0.1"
PORT: Final = 18831
DEVICES: Final = ("j-1-1", "j-0-1", "j-1-0", "j-1-2", "j-2-1")
"""A junction and the four around it; ports count up in this order."""
LINKS: Final = (
    ("j-1-1", "j-0-1"),
    ("j-0-1", "j-1-0"),
    ("j-1-0", "j-2-1"),
    ("j-2-1", "j-1-2"),
    ("j-1-2", "j-1-1"),
    ("j-1-1", "j-2-1"),  # the chord
)
WATCHED: Final = "j-1-1"
"""Has the first port, the one that people subscribe on; publishes model version 1."""
OPERATOR: Final = "j-1-0"
"""The device that an operator publishes model version 2 through."""
KILLED: Final = "j-1-2"
CUT_OFF: Final = frozenset({"j-1-0", "j-2-1", "j-1-2"})
"""One side of the cut; the other one is the rest."""
TLS_PORTS_ON: Final = 100
"""A device's port for TLS, where neighbours dial it, is so much above its plain one."""
TTL_MS: Final = 60_000
"""How long an obstacle lives, in wall time."""
SITE: Final = "city"
MODEL: Final = "forecaster"
TRACE_OFFSET_S: Final = 200.0
"""Second of the trace that the demo starts at: traffic has built up by then."""
PORT_MAX: Final = 65_535


class PortTaken(FlockmqError):
    """A port that the demo needs cannot be had."""


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """One device of the fleet."""

    name: str
    port: int
    """For people and programs on this machine."""
    tls_port: int
    """For its neighbours."""
    neighbours: tuple[tuple[str, int], ...]
    """Name and port for TLS of each."""

    def toml(self, state: Path, identity: Path, *, speed: float, started_ms: int) -> str:
        """Its device.toml.

        Args:
            state: Its state directory.
            identity: Its identity's folder.
            speed: Trace seconds per second.
            started_ms: Wall time at which the trace was at its second 0.
        """
        sections: list[str] = [
            _table("", {"device": self.name, "site": SITE, "state": str(state)}),
            _table("[broker]", {"host": HOST, "port": self.port}),
            _table("[tls]", {"identity": str(identity), "host": HOST, "port": self.tls_port}),
        ]
        sections += [
            _table("[[neighbour]]", {"name": name, "host": HOST, "port": port})
            for name, port in self.neighbours
        ]
        sections += [
            _table("[sensor]", {"factory": "agent.sensors.trace:make"}),
            _table(
                "[sensor.options]",
                {"junction": self.name, "speed": speed, "started_ms": started_ms, "ttl_ms": TTL_MS},
            ),
            _table("[model]", {"name": MODEL}),
        ]
        return "\n".join(sections)


def fleet_plan(port: int) -> tuple[DevicePlan, ...]:
    """The five devices on ports from `port` on."""
    ports = {name: port + index for index, name in enumerate(DEVICES)}
    tls = {name: port + TLS_PORTS_ON for name, port in ports.items()}
    return tuple(
        DevicePlan(
            name, ports[name], tls[name], tuple((peer, tls[peer]) for peer in neighbours_of(name))
        )
        for name in DEVICES
    )


def neighbours_of(device: str) -> tuple[str, ...]:
    """Whom a device is linked to."""
    return tuple(a if b == device else b for a, b in LINKS if device in (a, b))


def check_ports(plans: tuple[DevicePlan, ...]) -> None:
    """Look whether all ports can be had.

    Raises:
        PortTaken: One cannot.
    """
    for name, port in [(p.name, port) for p in plans for port in (p.port, p.tls_port)]:
        if not 0 < port <= PORT_MAX:
            raise PortTaken(
                f"there is no port {port}; choose --port between 1 and "
                f"{PORT_MAX - TLS_PORTS_ON - len(plans) + 1}"
            )
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                probe.listen()
            except OSError as error:
                raise PortTaken(
                    f"port {port} of {HOST}, which {name} needs, cannot be had "
                    f"({error.strerror}); `ss -ltnp 'sport = :{port}'` names who has it: "
                    "end that, or choose others with --port"
                ) from None


def _table(head: str, values: Mapping[str, Any]) -> str:
    lines = [head] if head else []
    # JSON's strings and numbers are TOML's too, for everything that stands here.
    lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"
