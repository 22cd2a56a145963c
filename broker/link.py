"""The dialling end of a link: introduce this device at a neighbour's broker, then frames in and out.

A link is an ordinary MQTT session at the neighbour's broker, with client id `mesh-{device}`: it subscribes
`mesh/v1/{device}/{neighbour}` and publishes frames on `mesh/v1/{neighbour}/{device}` at QoS 0. So one port and one
security setting serve clients and links, and a device behind NAT joins by dialling out.

Where this device has an identity, the connection is TLS, and what answers must have the neighbour's certificate.

When to connect is the dialler's matter (`dialler.py`). A refusal closes the connection; `ready` says why.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NamedTuple, Protocol

from broker.embedded import packets
from broker.embedded.bodies import REFUSED_UNAVAILABLE
from broker.embedded.limits import LINK_SLICE_S
from broker.embedded.slices import Slices
from broker.packet_connection import KEEP_ALIVE_S, PacketConnection
from broker.tls import explain
from broker.topic_names import frame_topic
from broker.trust import NotAdmitted

if TYPE_CHECKING:
    import asyncio

    from broker.embedded.ingress import Pipe
    from broker.trust import Holder, Trust

__all__ = ["DialledPipe", "Neighbour", "Owner", "Unwelcome"]


class Unwelcome(ConnectionError):
    """One end does not take the other for whom it says it is, or does not let it in; that seldom passes soon."""


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


class DialledPipe(PacketConnection):
    """A connection to a neighbour's broker, and a link once `introduce` was answered.

    Args:
        device: This device's id.
        peer: The neighbour's.
        owner: The node.
        trust: Who is believed, where the connection is TLS; None: plain MQTT.
    """

    def __init__(self, device: str, peer: str, owner: Owner, trust: Trust | None = None) -> None:
        super().__init__()
        self._peer = peer
        self._trust = trust
        self._holder: Holder | None = None
        self._device = device
        self._owner = owner
        self._topic_field = packets.string_field(frame_topic(to=peer, sender=device))
        self._inbound = frame_topic(to=device, sender=peer)
        self._attached = False
        self._slices = Slices(LINK_SLICE_S)
        self._waiting = False

    def send(self, frames: list[bytes]) -> None:
        """Write each frame as one PUBLISH, all in one write."""
        self.write(packets.publish_frames(self._topic_field, frames))

    def close(self) -> None:
        """Close the connection."""
        self.abort()

    def introduce(self) -> None:
        """Say who is there."""
        self.write(packets.encode_connect(f"mesh-{self._device}", KEEP_ALIVE_S))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is said yet: of several connections only one becomes the link."""
        super().connection_made(transport)
        if self._trust is not None:
            fields = transport.get_extra_info("peercert")
            where = (transport.get_extra_info("peername") or ("somewhere",))[0]
            try:
                self._holder = self._trust.admit_neighbour(fields, self._peer, str(where))
            except NotAdmitted as error:
                self.fail(Unwelcome(str(error)))

    def data_received(self, data: bytes) -> None:
        """Bytes from the neighbour's broker. What takes longer than its slice of a turn goes on in the next one."""
        self._parser.feed(data)
        if self._waiting:
            return
        if self._slices.is_over_for(len(data)):
            self._waiting = True
            if self._transport is not None:
                self._transport.pause_reading()
            self._slices.later(self._go_on)
            return
        self.take_packets()

    def _go_on(self) -> None:
        self._waiting = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self.take_packets()

    def judge_again(self) -> None:
        """Close the link if the neighbour's certificate has ceased to count."""
        if self._trust is not None and self._holder is not None:
            standing = self._trust.standing(self._holder.certificate)
            if not standing.counts:
                self.abort()

    def packet(self, kind: int, flags: int, body: bytes) -> None:
        """Take a packet from the neighbour's broker."""
        if kind == packets.PUBLISH:
            topic, payload, _ = packets.parse_publish(flags, body)
            if topic == self._inbound and self._attached:
                self._owner.link_frame(self._peer, self, payload)
        elif kind == packets.CONNACK and len(body) == 2:
            if body[1]:
                refusal = ConnectionError if body[1] == REFUSED_UNAVAILABLE else Unwelcome
                self.fail(refusal(f"its broker refuses this device (CONNACK {body[1]})"))
            else:
                self.write(packets.encode_subscribe(1, [(self._inbound, 0)]))
        elif kind == packets.SUBACK and len(body) == 3:
            if body[2] == packets.SUBACK_REFUSED:
                self.fail(Unwelcome("its broker refuses the link (SUBACK 0x80)"))
            elif not self._attached:
                self._attached = True
                if not self.ready.done():
                    self.ready.set_result(None)
                self._owner.link_dialled(self._peer, self)

    def resume_writing(self) -> None:
        """There is room again."""
        self._owner.request_flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever closed it."""
        if self._attached:
            self._attached = False
            self._owner.link_detached(self._peer, self)
        if isinstance(exc, ssl.SSLError):
            # With TLS 1.3 the other side looks at this one's certificate after the handshake.
            self.lost(Unwelcome(explain(exc)))
        else:
            self.lost(ConnectionError(str(exc or "closed before the link was up")))
