"""A connection that this device has dialled to a broker: whole MQTT packets in, bytes out.

Decides nothing of what is said; `link.py` and `mqtt_client.py` do. Raw packets rather than paho (which aiomqtt is built
on), because links, hubs and bridges need what a client library hides: when a PUBACK is sent, which protocol level
CONNECT asks for, how many bytes the kernel has not taken, and one write for many messages. The packets are the embedded
broker's own.

What is no MQTT closes the connection, and `ready` says why it never will be.
"""

from __future__ import annotations

import abc
import asyncio
import socket
from typing import Final, cast

from broker.embedded import packets
from broker.embedded.limits import PACKET_BYTES_MAX
from broker.errors import MalformedPacket

__all__ = ["KEEP_ALIVE_S", "UNSENT_HIGH_BYTES", "PacketConnection"]

KEEP_ALIVE_S: Final = 30
"""What a broker is told, and the embedded one's own limit. The mesh, hubs and bridges notice silence far earlier."""
UNSENT_LOW_BYTES: Final = 16 * 1024
UNSENT_HIGH_BYTES: Final = 32 * 1024
"""Well below what a node lets wait in a socket, so that it always hears when there is room again."""


class PacketConnection(asyncio.Protocol, abc.ABC):
    """One connection, from being made to being lost.

    Args:
        body_bytes_max: A packet with a longer body is none.
    """

    def __init__(self, body_bytes_max: int = PACKET_BYTES_MAX) -> None:
        self._parser = packets.PacketParser(body_bytes_max)
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        """It serves its purpose; an error says why it never will."""
        self.closed: asyncio.Future[None] = loop.create_future()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    def write(self, data: bytes) -> None:
        """Write whole packets."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()

    def abandon(self) -> None:
        """Close a connection that nobody waits for any more."""
        self.abort()
        self.ready.cancel()  # which it is already if a time-out ended the wait for it
        if not self.ready.cancelled():
            self.ready.exception()  # it is told by whoever gives up

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bytes may be written."""
        # uvloop's transports quack like asyncio's without inheriting from them.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=UNSENT_HIGH_BYTES, low=UNSENT_LOW_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Bytes from the broker."""
        self._parser.feed(data)
        self.take_packets()

    def take_packets(self) -> None:
        """Take the packets that are whole."""
        try:
            for kind, flags, body in self._parser.packets():
                self.packet(kind, flags, body)
        except MalformedPacket as error:
            self.fail(ConnectionError(f"it sent what is not MQTT 3.1.1: {error}"))

    @abc.abstractmethod
    def packet(self, kind: int, flags: int, body: bytes) -> None:
        """Take a packet. MalformedPacket closes the connection."""

    def fail(self, error: ConnectionError) -> None:
        """Close at once, and say why."""
        if not self.ready.done():
            self.ready.set_exception(error)
        self.abort()

    def lost(self, error: ConnectionError) -> None:
        """Say that the connection is gone, whoever closed it; the end of each `connection_lost`."""
        if not self.ready.done():
            self.ready.set_exception(error)
        if not self.closed.done():
            self.closed.set_result(None)
