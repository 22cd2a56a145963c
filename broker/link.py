"""One neighbour that this device dials: connect, introduce, hand over the pipe, and dial again when it is gone.

A link is an ordinary MQTT session at the neighbour's broker, with client id `mesh-{device}`: it subscribes
`mesh/v1/{device}/{neighbour}` and publishes frames on `mesh/v1/{neighbour}/{device}` at QoS 0. So one port and one
security setting serve clients and links, and a device behind NAT joins by dialling out.

Assumes the neighbour answers within CONNECT_TIMEOUT_S or not at all. Failures back off with jitter, from
BACKOFF_S_MIN to BACKOFF_S_MAX; the maximum is short, because a healed network should be noticed within a second.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

from broker.embedded import packets
from broker.embedded.quickack import acknowledge_now
from broker.errors import MalformedPacket
from broker.topics import frame_topic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from broker.embedded.ingress import Pipe
    from broker.radio import Radio

__all__ = ["Dialler", "Neighbour"]

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 1.0
"""From dialling to SUBACK. A LAN answers in milliseconds, a busy Pi in tenths of a second. Guess."""
BACKOFF_S_MIN: Final = 0.05
BACKOFF_S_MAX: Final = 0.8
"""A neighbour that is off costs one SYN in so long; a healed network is noticed within it."""
LIVED_S_MIN: Final = 1.0
"""A link that ends sooner counts as a failure, so that a neighbour that will not have us is not dialled in a loop."""
KEEP_ALIVE_S: Final = 30
"""The broker's own limit; the mesh pings far more often."""
UNSENT_LOW_BYTES: Final = 16 * 1024
UNSENT_HIGH_BYTES: Final = 32 * 1024
"""Well below what the node lets wait in a socket, so that it always hears when there is room again."""


class Neighbour(NamedTuple):
    """Where a neighbour's broker listens."""

    name: str
    host: str
    port: int


class Owner(Protocol):
    """What a dialled link tells; the node."""

    def link_dialled(self, peer: str, pipe: Pipe) -> None:
        """The link is there."""

    def link_frame(self, peer: str, pipe: Pipe, frame: bytes) -> None:
        """A frame came."""

    def link_detached(self, peer: str, pipe: Pipe) -> None:
        """The link is gone."""

    def request_flush(self) -> None:
        """There is room in the pipe again."""


class DialledPipe(asyncio.Protocol):
    """The dialling end of a link."""

    def __init__(self, device: str, peer: str, owner: Owner) -> None:
        self._peer = peer
        self._device = device
        self._owner = owner
        self._parser = packets.PacketParser()
        self._topic_field = packets.string_field(frame_topic(to=peer, sender=device))
        self._inbound = frame_topic(to=device, sender=peer)
        self._transport: asyncio.Transport | None = None
        self._attached = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    def send(self, frames: list[bytes]) -> None:
        """Write each frame as one PUBLISH, all in one write."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(packets.publish_frames(self._topic_field, frames))

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce this device."""
        # uvloop's transports quack like asyncio's without inheriting from them.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=UNSENT_HIGH_BYTES, low=UNSENT_LOW_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.write(packets.encode_connect(f"mesh-{self._device}", KEEP_ALIVE_S))

    def data_received(self, data: bytes) -> None:
        """Packets from the neighbour's broker."""
        self._parser.feed(data)
        try:
            for kind, flags, body in self._parser.packets():
                self._packet(kind, flags, body)
        except MalformedPacket as error:
            self._fail(f"it sent what is not MQTT: {error}")
        acknowledge_now(self._transport)

    def _packet(self, kind: int, flags: int, body: bytes) -> None:
        if kind == packets.PUBLISH:
            topic, payload, _ = packets.parse_publish(flags, body)
            if topic == self._inbound and self._attached:
                self._owner.link_frame(self._peer, self, payload)
        elif kind == packets.CONNACK and len(body) == 2:
            if body[1]:
                self._fail(f"its broker refuses this device (CONNACK {body[1]})")
            elif self._transport is not None:
                self._transport.write(packets.encode_subscribe(1, [(self._inbound, 0)]))
        elif kind == packets.SUBACK and len(body) == 3:
            if body[2] == packets.SUBACK_REFUSED:
                self._fail("its broker refuses the link (SUBACK 0x80)")
            elif not self._attached:
                self._attached = True
                if not self.ready.done():
                    self.ready.set_result(None)
                self._owner.link_dialled(self._peer, self)

    def _fail(self, reason: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(reason))
        self.close()

    def resume_writing(self) -> None:
        """There is room again."""
        self._owner.request_flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever closed it."""
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(str(exc or "closed before the link was up")))
        if self._attached:
            self._attached = False
            self._owner.link_detached(self._peer, self)
        if not self.closed.done():
            self.closed.set_result(None)


class Dialler:
    """Keeps a link to one neighbour up.

    Args:
        device: This device's id.
        neighbour: Whom to dial.
        owner: The node.
        wanted: Waits until a link to this neighbour is wanted, because there is none.
        radio: Whether anything that is sent gets there.
        random: Jitter.
    """

    def __init__(
        self,
        device: str,
        neighbour: Neighbour,
        owner: Owner,
        wanted: Callable[[str], Awaitable[None]],
        radio: Radio,
        random: Random,
    ) -> None:
        self._device = device
        self._neighbour = neighbour
        self._owner = owner
        self._wanted = wanted
        self._radio = radio
        self._random = random
        self._lookup: asyncio.Future[list[Any]] | None = None
        self.failures = 0
        """Since the last link."""
        self.last_failure = ""

    async def run(self) -> None:
        """Dial for ever; cancel to stop."""
        while True:
            await self._wanted(self._neighbour.name)
            try:
                pipe = await self._dial()
                up_at = asyncio.get_running_loop().time()
                await pipe.closed
            except (OSError, TimeoutError, ValueError, OverflowError) as error:
                self._note(str(error) or "no answer")
            else:
                if asyncio.get_running_loop().time() - up_at >= LIVED_S_MIN:
                    self.failures = 0
                else:
                    self._note("it closes the link as soon as it is up; see its log")
            await asyncio.sleep(self._backoff_s())

    async def _dial(self) -> DialledPipe:
        name = self._neighbour.name
        if not self._radio.hears(name):
            await asyncio.sleep(CONNECT_TIMEOUT_S)
            raise TimeoutError
        pipe = DialledPipe(self._device, name, self._owner)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connect(pipe)
                await pipe.ready
        except BaseException:
            pipe.close()
            if not pipe.ready.cancel():
                pipe.ready.exception()  # it is told by what is raised here
            raise
        return pipe

    async def _connect(self, pipe: DialledPipe) -> None:
        loop = asyncio.get_running_loop()
        addresses = await self._resolve()
        for number, (family, _, _, _, address) in enumerate(addresses, start=1):
            try:
                await loop.create_connection(lambda: pipe, address[0], address[1], family=family)
            except OSError:
                if number == len(addresses):
                    raise
            else:
                return

    async def _resolve(self) -> list[Any]:
        """What getaddrinfo says of the host; a look-up that outlasts an attempt goes on and serves the next.

        The name of a machine that is off may take the resolver many seconds. Its thread cannot be stopped, and
        look-ups started anew with each attempt would use up the threads that the living neighbours' names need.
        """
        if self._lookup is None:
            _, host, port = self._neighbour
            loop = asyncio.get_running_loop()
            self._lookup = asyncio.ensure_future(
                loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
            self._lookup.add_done_callback(self._looked_up)
        return await asyncio.shield(self._lookup)

    def _looked_up(self, lookup: asyncio.Future[list[Any]]) -> None:
        self._lookup = None
        if not lookup.cancelled():
            lookup.exception()  # the attempt that waits for it raises it; if none does, the next one asks again

    def _backoff_s(self) -> float:
        ceiling: float = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2 ** min(self.failures, 10))
        return ceiling * (0.5 + self._random.random() / 2)

    def _note(self, reason: str) -> None:
        self.failures += 1
        if reason != self.last_failure:
            self.last_failure = reason
            logger.info("%s: no link to %s yet: %s", self._device, self._neighbour.name, reason)
