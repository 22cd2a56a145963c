"""This device as an ordinary MQTT 3.1.1 client of somebody else's broker: one connection, packets in and out.

Decides nothing of what is said; hubs and bridges do.

Assumes that a broker answers CONNECT within CONNECT_TIMEOUT_S and anything else within SILENCE_S. One that does not is
taken for dead and the connection is closed, as is one that sends what is no MQTT.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from broker.embedded import packets
from broker.embedded.quickack import acknowledge_now
from broker.errors import MalformedPacket
from broker.packet_connection import PacketConnection

if TYPE_CHECKING:
    from random import Random

    from broker.lookup import Lookup

__all__ = ["Address", "Backoff", "BrokerRefuses", "Client", "Handler", "connect"]

CONNECT_TIMEOUT_S: Final = 5.0
"""From dialling to CONNACK. Brokers in the middle are often far away, behind a mobile network. Guess."""
PING_S: Final = 2.0
"""A PINGREQ so often, so that a broker that vanished without a FIN is noticed."""
SILENCE_S: Final = 7.0
"""It is, after three of them went unanswered."""
BACKOFF_S_MIN: Final = 0.1
BACKOFF_S_MAX: Final = 3.0
"""A broker that is back is found within it; one that is away costs one SYN in so long."""
FOREIGN_BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""A packet of others that is read at all, so that one message too large for the mesh can be passed over."""


class Address(NamedTuple):
    """Where a broker listens, and as whom to introduce oneself there."""

    host: str
    port: int
    username: str | None = None
    password: bytes | None = None


class BrokerRefuses(ConnectionError):
    """The broker answered CONNECT with a return code; see table 3.1 of MQTT 3.1.1."""

    def __init__(self, code: int) -> None:
        reason = {
            1: "it does not speak this protocol level",
            2: "it does not like the client id",
            3: "it is not available",
            4: "user name or password are wrong",
            5: "it does not let this device in",
        }.get(code, "for a reason of its own")
        super().__init__(f"the broker refuses the connection: {reason} (CONNACK {code})")
        self.code = code


class Handler(Protocol):
    """What becomes of the packets."""

    def packet(self, kind: int, flags: int, body: bytes) -> None:
        """Take a packet that is neither CONNACK nor PINGRESP. MalformedPacket closes the connection."""

    def writable(self) -> None:
        """There is room again after the connection was full."""

    def lost(self) -> None:
        """The connection is gone; once, and only if it was there."""


class Client(PacketConnection):
    """One connection, made by `connect`."""

    def __init__(self, hello: bytes, handler: Handler) -> None:
        super().__init__(FOREIGN_BODY_BYTES_MAX)
        self._hello = hello
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._ping: asyncio.TimerHandle | None = None
        self._accepted = False
        self.failure = ""
        """Why this end closed it."""
        self.session_present = False

    def close(self, reason: str = "") -> None:
        """Close at once; `Handler.lost` follows."""
        self.failure = self.failure or reason
        self.abort()

    def leave(self) -> None:
        """Say DISCONNECT and close once it is written."""
        self.write(packets.DISCONNECT_PACKET)
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce this device."""
        super().connection_made(transport)
        self.write(self._hello)

    def data_received(self, data: bytes) -> None:
        """Packets from the broker."""
        self._heard_s = self._loop.time()
        super().data_received(data)
        acknowledge_now(self._transport)

    def packet(self, kind: int, flags: int, body: bytes) -> None:
        """Take a packet: what comes before CONNACK ends the connection, what follows is the handler's."""
        if self._accepted:
            if kind != packets.PINGRESP:
                self._handler.packet(kind, flags, body)
        elif kind != packets.CONNACK or len(body) != 2:
            raise MalformedPacket("something else before CONNACK")
        elif body[1]:
            self.fail(BrokerRefuses(body[1]))
        else:
            self._accepted = True
            self.session_present = bool(body[0] & 1)
            self._keep_alive()
            if not self.ready.done():
                self.ready.set_result(None)

    def fail(self, error: ConnectionError) -> None:
        """Close at once, and say why."""
        self.failure = self.failure or str(error)
        super().fail(error)

    def _keep_alive(self) -> None:
        silent_s = self._loop.time() - self._heard_s
        if silent_s > SILENCE_S:
            self.close(f"the broker has been silent for {silent_s:.0f} s")
            return
        self.write(packets.PINGREQ_PACKET)
        self._ping = self._loop.call_later(PING_S, self._keep_alive)

    def resume_writing(self) -> None:
        """There is room again."""
        if self._accepted:
            self._handler.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever closed it."""
        self.failure = self.failure or str(exc or "the broker has closed the connection")
        if self._ping is not None:
            self._ping.cancel()
        if self._accepted:
            self._handler.lost()
        self.lost(ConnectionError(self.failure))


async def connect(lookup: Lookup, hello: bytes, handler: Handler) -> Client:
    """A connection that the broker has accepted.

    Args:
        lookup: Where it listens.
        hello: The CONNECT packet, with KEEP_ALIVE_S.
        handler: Gets the packets.

    Raises:
        BrokerRefuses: It answered with a return code.
        OSError: It cannot be reached, or hangs up.
        TimeoutError: It did not answer within CONNECT_TIMEOUT_S.
    """
    client = Client(hello, handler)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await lookup.connect(lambda: client)
            await client.ready
    except BaseException:
        client.abandon()
        raise
    return client


class Backoff:
    """How long to wait between attempts: decorrelated jitter, so that a fleet does not come back all at once.

    Source: M. Brooker, "Exponential Backoff And Jitter", 2015.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._last_s = BACKOFF_S_MIN

    def next_s(self) -> float:
        """Seconds until the next attempt, BACKOFF_S_MIN to BACKOFF_S_MAX."""
        self._last_s = min(BACKOFF_S_MAX, self._random.uniform(BACKOFF_S_MIN, self._last_s * 3))
        return self._last_s

    def reset(self) -> None:
        """A connection has lasted."""
        self._last_s = BACKOFF_S_MIN
