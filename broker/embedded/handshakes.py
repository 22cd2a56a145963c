"""The handshake of a WebSocket, before anybody is a client: bounded like that of TLS (`doorman.py`).

Decides: how many may be under way, the oldest making room for the newest; how long a request may be;
that an address which connects too often is closed before one begins. How long it may take is for
whoever calls `serve` to say. Assumes: the `websockets` release that amqtt pins. On failure: the
connection is closed and counted.

Why: `websockets` bounds a request to 1 MiB, and how many there are not at all.
"""

import asyncio
from typing import Any, cast

from websockets.asyncio.server import ServerConnection

from broker.embedded.limits import REQUEST_BYTES_MAX
from broker.embedded.wire import Wires


def bounded(wires: Wires) -> type[ServerConnection]:
    """Return the class of a listener's connections."""
    under_way = wires.upgrades

    class Connection(ServerConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._request_bytes = 0
            self._turned_away = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport = cast("asyncio.Transport", transport)
            peer = transport.get_extra_info("peername")
            if not wires.has_room(str(peer[0]) if peer else ""):
                wires.counters.connections_refused += 1
                self._turned_away = True
                transport.abort()
                return
            if len(under_way) >= wires.limits.handshakes_max:
                wires.counters.handshakes_dropped += 1
                under_way.pop(next(iter(under_way))).abort()
            under_way[self] = transport
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            if self.request is None:
                self._request_bytes += len(data)
                if self._request_bytes > REQUEST_BYTES_MAX:
                    wires.counters.malformed += 1
                    self.transport.abort()
                    return
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            under_way.pop(self, None)
            if not self._turned_away:
                super().connection_lost(exc)

    return Connection
