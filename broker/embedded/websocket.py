"""A WebSocket as a transport: the same client loop behind `ws://` as behind TCP.

Decides: how the calls of an asyncio transport map to a WebSocket, and how long a message may be: as
long as a CONNECT until the client was let in. Assumes: the `websockets`
release that amqtt pins. On failure: a connection that breaks ends as a lost one; text messages
are a protocol error (MQTT 3.1.1 section 6) and close it.

Why not amqtt's adapters: its reader turns text into packets and never bounds what waits for a
slow browser.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from websockets import Subprotocol
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from broker.embedded.handshakes import bounded
from broker.embedded.limits import CONNECT_BYTES_MAX, WEBSOCKET_MESSAGE_BYTES_MAX
from broker.embedded.wire import Wire, Wires

# The library logs a traceback for each handshake that fails, so anybody could fill the log.
_quiet = logging.getLogger(f"{__name__}.library")
_quiet.setLevel(logging.CRITICAL)


class WebSocketTransport(asyncio.Transport):
    """Takes writes at once and sends them in order from a task of its own."""

    def __init__(self, websocket: ServerConnection, wire: Wire) -> None:
        super().__init__()
        self._websocket = websocket
        self._wire = wire
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._high = self._low = 0
        self._paused = False
        self._closing = False
        self._wake = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()

    async def run(self) -> None:
        """Serve the connection until it ends, from either side."""
        self._wire.connection_made(self)
        sender = asyncio.create_task(self._send())
        try:
            while True:
                await self._reading.wait()
                message = await self._websocket.recv()
                if isinstance(message, str):
                    break
                self._wire.data_received(message)
        except ConnectionClosed:
            pass
        finally:
            self._closing = True
            self._wake.set()
            with contextlib.suppress(ConnectionClosed):
                await sender
            self._wire.connection_lost(None)

    async def _send(self) -> None:
        while True:
            while self._unsent:
                data = b"".join(self._unsent)
                self._unsent.clear()
                await self._websocket.send(data)  # waits while the socket does not drain
                self._unsent_bytes -= len(data)
                if self._paused and self._unsent_bytes <= self._low:
                    self._paused = False
                    self._wire.resume_writing()
            if self._closing:
                await self._websocket.close()
                return
            self._wake.clear()
            await self._wake.wait()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send whole packets as one binary message, or part of one."""
        self._unsent.append(bytes(data))
        self._unsent_bytes += len(data)
        self._wake.set()
        if not self._paused and self._unsent_bytes > self._high:
            self._paused = True
            self._wire.pause_writing()

    def get_write_buffer_size(self) -> int:
        """Bytes taken and not sent."""
        return self._unsent_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when `pause_writing` and `resume_writing` are called; both are given here."""
        self._high, self._low = high or 0, low or 0

    def pause_reading(self) -> None:
        """Take no further message, and leave with the peer what is not here yet."""
        self._reading.clear()
        if not self._websocket.transport.is_closing():
            self._websocket.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on taking messages."""
        self._reading.set()
        if not self._websocket.transport.is_closing():
            self._websocket.transport.resume_reading()

    def close(self) -> None:
        """Send what is left, then close."""
        self._closing = True
        self._reading.set()
        self._wake.set()

    def abort(self) -> None:
        """Drop the connection without a closing handshake."""
        self._closing = True
        self._unsent.clear()
        self._reading.set()
        self._wake.set()
        self._websocket.transport.abort()

    def is_closing(self) -> bool:
        """Whether it was closed from this side."""
        return self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Ask the TCP transport below."""
        return self._websocket.transport.get_extra_info(name, default)


async def listen(
    wires: Wires,
    make_wire: Callable[[], Wire],
    host: str | None,
    port: int,
    ssl_context: ssl.SSLContext | None,
) -> Server:
    """Open a listener.

    Raises:
        OSError: the address cannot be used.

    """

    async def connected(websocket: ServerConnection) -> None:
        wires.upgrades.pop(websocket, None)
        wire = make_wire()
        wire.counted = True
        wire.when_let_in = partial(_let_in, websocket)
        await WebSocketTransport(websocket, wire).run()

    return await serve(
        connected,
        host,
        port,
        ssl=ssl_context,
        subprotocols=[Subprotocol("mqtt")],
        compression=None,
        open_timeout=wires.limits.handshake_s,
        close_timeout=wires.limits.handshake_s,
        max_size=CONNECT_BYTES_MAX,
        logger=_quiet,
        create_connection=bounded(wires),
    )


def _let_in(websocket: ServerConnection) -> None:
    websocket.protocol.max_size = WEBSOCKET_MESSAGE_BYTES_MAX
