"""flockmq: three device processes in a row, each a `Node` with its embedded broker and its durable store.

In process, as an agent meets it: the near device publishes on its node, the far one feeds its world from its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.demo.identities import identity_of, make_fleet
from bench.ends import TURN, WINDOW, Publishing, Reducing
from bench.role import Part
from bench.systems.row import Row
from bench.traffic import OBSERVER
from broker.credentials import system_moment
from broker.link import Neighbour
from broker.node import Node
from broker.store import Store
from broker.strength import Strength
from broker.trust import TlsAt, Trust

if TYPE_CHECKING:
    from bench.stage import Role, Stage

__all__ = ["PLAIN", "Far", "Flockmq", "Holder", "Middle", "Near", "start_row"]

TURNS_MAX: Final = WINDOW // TURN
"""Turns that may wait for their acknowledgements: as many as may be on their way."""
PLAIN: Final = "plain"
_MODULE: Final = "bench.systems.flockmq:"


class Holder:
    """Holds a node with the defaults of `flockmq run`, on a free port."""

    node: Node
    trust: Trust | None = None

    async def start_node(
        self,
        device: str,
        state: str,
        neighbours: list[list[Any]],
        identity: str | None = None,
        tags: str | None = None,
    ) -> int:
        """Start; returns the port that neighbours dial. With the folder of an identity that is by mutual TLS."""
        tls = None
        if identity is not None:
            self.trust = Trust(Path(identity), system_moment)
            seals = self.trust.seals(Strength(tags)) if tags is not None else None
            tls = TlsAt(self.trust, "127.0.0.1", 0, seals)
        self.node = Node(
            device,
            Store(Path(state)),
            port=0,
            tls=tls,
            neighbours=[Neighbour(name, "127.0.0.1", port) for name, port in neighbours],
        )
        await self.node.start()
        return self.node.link_port

    async def linked(self, *, links: int) -> None:
        """Wait until so many neighbours have introduced themselves and the device has its place."""
        while True:
            established = sum(peer.established for peer in self.node.statistics().mesh.peers)
            if established >= links and not self.node.joining:
                return
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Stop."""
        await self.node.stop()


class Middle(Holder, Part):
    """The device in the middle, and any whose ends are MQTT clients."""

    async def open(
        self, *, device: str, state: str, neighbours: list[list[Any]], **identity: Any
    ) -> int:
        """Start; returns the port."""
        return await self.start_node(device, state, neighbours, **identity)


class Near(Holder, Publishing):
    """The device at the near end."""

    async def connect(
        self, *, device: str, state: str, neighbours: list[list[Any]], **identity: Any
    ) -> int:
        """Start; returns the port."""
        self._unacknowledged: deque[asyncio.Future[None]] = deque()
        return await self.start_node(device, state, neighbours, **identity)

    def send(self, topic: str, payload: bytes) -> None:
        """Publish one update; the topic contract makes it QoS 1."""
        self.node.publish_nowait(topic, payload)

    async def turn(self) -> None:
        """Let it leave, and wait for an acknowledgement when there are too many to come, as an MQTT client does."""
        self._unacknowledged.append(asyncio.ensure_future(self.node.committed()))
        await asyncio.sleep(0)
        if len(self._unacknowledged) > TURNS_MAX:
            await self._unacknowledged.popleft()


class Far(Holder, Reducing):
    """The device at the far end."""

    async def connect(
        self, *, device: str, state: str, neighbours: list[list[Any]], **identity: Any
    ) -> int:
        """Start; returns the port."""
        port = await self.start_node(device, state, neighbours, **identity)
        self.node.subscribe(self.reducer.take)
        return port


async def start_row(
    stage: Stage, near: str, far: str, ends: dict[str, str], security: str = PLAIN
) -> tuple[Role, Role, Role]:
    """Start three devices in a row and return when they are linked; `ends` is settings of the outer two."""
    fleet = stage.directory("fleet")
    if security != PLAIN:
        make_fleet(fleet, "row", (OBSERVER, "b", "c"))

    async def device(name: str, kind: str, to: list[list[Any]], settings: dict[str, str]) -> Role:
        if security != PLAIN:
            settings = settings | {"identity": str(identity_of(fleet, name))}
        if security in list(Strength):
            settings = settings | {"tags": security}
        return await stage.role(
            f"flockmq-{name}",
            _MODULE + kind,
            device=name,
            state=str(stage.directory(name)),
            neighbours=to,
            **settings,
        )

    b = await device("b", "Middle", [], {})
    a = await device(OBSERVER, near, [["b", b.opened]], ends)
    c = await device("c", far, [["b", b.opened]], ends)
    for role, links in ((a, 1), (b, 2), (c, 1)):
        await role.ask("linked", links=links)
    return a, b, c


class Flockmq:
    """Publisher and reducer in the devices themselves.

    Args:
        security: `plain`; `tls`: links by mutual TLS, without tags; `mac` or `signed`: with these tags, too.
    """

    def __init__(self, security: str = PLAIN) -> None:
        self.name = "flockmq" if security == PLAIN else f"flockmq, {security}"
        self._security = security

    def missing(self) -> str | None:
        """It is always there."""
        return None

    async def start(self, stage: Stage, stamps: Path) -> Row:
        """Start three devices in a row."""
        ends = {"stamps": str(stamps)}
        a, _, c = await start_row(stage, "Near", "Far", ends, self._security)
        return Row(near=a, far=c)


class FlockmqClients:
    """The same row with an MQTT client at each end."""

    name = "flockmq, paho clients"

    def missing(self) -> str | None:
        """It is always there."""
        return None

    async def start(self, stage: Stage, stamps: Path) -> Row:
        """Start three devices in a row, and the clients."""
        a, _, c = await start_row(stage, "Middle", "Middle", {})
        far = await stage.role(
            "far", "bench.systems.clients:PahoFar", stamps=str(stamps), port=c.opened
        )
        near = await stage.role(
            "near", "bench.systems.clients:PahoNear", stamps=str(stamps), port=a.opened
        )
        return Row(near=near, far=far)
