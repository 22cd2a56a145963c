"""The dialling end of a link: introduce this device at a neighbour's broker, then frames in and out.

A link is an ordinary MQTT session at the neighbour's broker, with client id `mesh-{device}`: it subscribes
`mesh/v1/{device}/{neighbour}` and publishes frames on `mesh/v1/{neighbour}/{device}` at QoS 0. So one port and one
security setting serve clients and links, and a device behind NAT joins by dialling out.

Where this device has an identity, the connection is TLS, and what answers must have the neighbour's certificate.

When to connect is the dialler's matter (`dialler.py`). What is not MQTT, or a refusal, closes the connection; `ready`
says why.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from broker.embedded import packets
from broker.errors import MalformedPacket
from broker.topics import frame_topic
from broker.trust import NotAdmitted, explain

if TYPE_CHECKING:
    from broker.embedded.ingress import Pipe
    from broker.trust import Holder, Trust

__all__ = ["DialledPipe", "Neighbour", "Owner"]

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
    """A connection to a neighbour's broker, and a link once `introduce` was answered.

    Args:
        device: This device's id.
        peer: The neighbour's.
        owner: The node.
        trust: Who is believed, where the connection is TLS; None: plain MQTT.
    """

    def __init__(self, device: str, peer: str, owner: Owner, trust: Trust | None = None) -> None:
        self._peer = peer
        self._trust = trust
        self._holder: Holder | None = None
        self._device = device
        self._owner = owner
        self._parser = packets.PacketParser()
        self._topic_field = packets.string_field(frame_topic(to=peer, sender=device))
        self._inbound = frame_topic(to=device, sender=peer)
        self._transport: asyncio.Transport | None = None
        self._attached = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """The link is up; an error says why it never will be."""
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

    def abandon(self) -> None:
        """Close a connection that nobody waits for any more."""
        self.close()
        if not self.ready.cancel():
            self.ready.exception()  # it is told by whoever gives up

    def introduce(self) -> None:
        """Say who is there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(packets.encode_connect(f"mesh-{self._device}", KEEP_ALIVE_S))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is said yet: of several connections only one becomes the link."""
        # uvloop's transports quack like asyncio's without inheriting from them.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=UNSENT_HIGH_BYTES, low=UNSENT_LOW_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._trust is not None:
            fields = transport.get_extra_info("peercert")
            where = (transport.get_extra_info("peername") or ("somewhere",))[0]
            try:
                self._holder = self._trust.admit_neighbour(fields, self._peer, str(where))
            except NotAdmitted as error:
                self._fail(str(error))

    def judge_again(self) -> None:
        """Close the link if the neighbour's certificate has ceased to count."""
        if self._trust is not None and self._holder is not None:
            standing = self._trust.standing(self._holder.certificate)
            if not standing.counts:
                self.close()

    def data_received(self, data: bytes) -> None:
        """Packets from the neighbour's broker."""
        self._parser.feed(data)
        try:
            for kind, flags, body in self._parser.packets():
                self._packet(kind, flags, body)
        except MalformedPacket as error:
            self._fail(f"it sent what is not MQTT: {error}")

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
            # With TLS 1.3 the other side looks at this one's certificate after the handshake.
            reason = explain(exc) if isinstance(exc, ssl.SSLError) else str(exc or "")
            self.ready.set_exception(ConnectionError(reason or "closed before the link was up"))
        if self._attached:
            self._attached = False
            self._owner.link_detached(self._peer, self)
        if not self.closed.done():
            self.closed.set_result(None)
