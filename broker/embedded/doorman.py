"""The listener for TLS: shakes hands with each connection before the client loop sees a byte of it.

Decides: how long a handshake may take, how many may be under way, that an address which
connects too often is closed before one begins, and that whoever fails is counted
with the reason, which asyncio's own TLS server keeps to itself. The oldest handshake makes room for
the newest: an honest one takes milliseconds, so half-open ones cost nobody his place.

Assumes: a `Trust`, which knows the certificates; what the certificate is good for is asked at
CONNECT (`broker.py`). On failure: the connection is closed and counted. Without a free file
descriptor it waits for one.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from broker.embedded.wire import Wire, Wires
from broker.trust import Trust

logger = logging.getLogger(__name__)

_BACKLOG: Final = 100  # as asyncio's own servers
_NO_FILE_S: Final = 0.2  # between attempts to accept when there are too many open files


class Doorman:
    """One listener, to be closed like an `asyncio.Server`."""

    def __init__(self, trust: Trust, wires: Wires, make_wire: Callable[[], Wire]) -> None:
        self._trust = trust
        self._wires = wires
        self._make_wire = make_wire
        self._handshakes: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._accepting: asyncio.Task[None] | None = None
        self.sockets: list[socket.socket] = []

    def listen(self, host: str, port: int) -> None:
        """Begin.

        Raises:
            OSError: the address cannot be used.

        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        listener.settimeout(0)
        self.sockets = [listener]
        loop = asyncio.get_running_loop()
        self._accepting = loop.create_task(self._accept(listener), name="accept TLS")

    def close(self) -> None:
        """Accept nobody any more, and drop what is half open."""
        tasks = [self._accepting, *self._handshakes]
        for task in tasks:
            if task is not None:
                task.cancel()
        for listener in self.sockets:
            listener.close()

    async def wait_closed(self) -> None:
        """Return when everything has ended."""
        tasks = [task for task in (self._accepting, *self._handshakes) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:
                logger.warning("no connection can be accepted: %s", error)
                await asyncio.sleep(_NO_FILE_S)
                continue
            if not self._wires.has_room(str(address[0])):
                self._wires.counters.connections_refused += 1
                connection.close()
                continue
            if len(self._handshakes) >= self._wires.limits.handshakes_max:
                self._wires.counters.handshakes_dropped += 1
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel()
            task = loop.create_task(self._shake_hands(connection, str(address[0])))
            self._handshakes[task] = None
            task.add_done_callback(lambda task: self._handshakes.pop(task, None))

    def _counted_wire(self) -> Wire:
        wire = self._make_wire()
        wire.counted = True
        return wire

    async def _shake_hands(self, connection: socket.socket, where: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._counted_wire,
                connection,
                ssl=self._trust.server,
                ssl_handshake_timeout=self._wires.limits.handshake_s,
            )
        except (OSError, EOFError) as error:
            self._trust.refuse_handshake(error, where)
