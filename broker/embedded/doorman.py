"""The listener for TLS: shakes hands with each connection before the client loop sees a byte of it.

Decides: how long a handshake may take, how many may be under way, how soon one begins after the other, that an address
which connects too often is closed before one begins, and that whoever fails is counted with the reason, which asyncio's
own TLS server keeps to itself. A handshake begins when the client has said its first bytes and it is its turn
(`lobby.py`). When too many are under way the oldest stranger's makes room: an honest one takes
milliseconds.

Assumes: a `Trust`, which knows the certificates, and from where neighbours came; what a certificate is good for is
asked at CONNECT (`broker.py`). On failure: the connection is closed and counted. Without a free file descriptor it
waits for one.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

from broker.embedded.lobby import Lobby
from broker.embedded.wire import Wire, Wires
from broker.trust import Trust

logger = logging.getLogger(__name__)

_BACKLOG: Final = 512  # while a flood is looked at, neighbours' connections wait in it, too
_ACCEPTS: Final = 16  # in one turn, at 20 us each, before the others have theirs
_NO_FILE_S: Final = 0.2  # between attempts to accept when there are too many open files


class _Guest(NamedTuple):
    """A connection that waits; `late` ends it."""

    connection: socket.socket
    address: str
    neighbour: bool
    late: asyncio.TimerHandle


class Doorman:
    """One listener, to be closed like an `asyncio.Server`."""

    def __init__(self, trust: Trust, wires: Wires, make_wire: Callable[[], Wire]) -> None:
        self._trust = trust
        self._wires = wires
        self._limits = wires.limits
        self._make_wire = make_wire
        self._loop = asyncio.get_running_loop()
        self._guests: dict[int, _Guest] = {}  # by file descriptor
        self._lobby: Lobby[int] = Lobby(wires.limits)
        # Whether it is a neighbour's; the oldest first.
        self._handshakes: dict[asyncio.Task[None], bool] = {}
        self._next_s = 0.0  # when the next handshake may begin
        self._begins: asyncio.TimerHandle | None = None
        self._accepts_again: asyncio.TimerHandle | None = None
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
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept nobody any more, and drop what is half open."""
        for timer in (self._begins, self._accepts_again):
            if timer is not None:
                timer.cancel()
        for guest in list(self._guests):
            self._send_away(guest)
        for task in self._handshakes:
            task.cancel()
        for listener in self.sockets:
            if listener.fileno() >= 0:  # amqtt closes once more
                self._loop.remove_reader(listener)
                listener.close()

    async def wait_closed(self) -> None:
        """Return when everything has ended."""
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    # -- who comes -----------------------------------------------------------------------------

    def _accept(self) -> None:
        (listener,) = self.sockets
        for _ in range(_ACCEPTS):
            try:
                connection, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                logger.warning("no connection can be accepted: %s", error)
                self._loop.remove_reader(listener)
                self._accepts_again = self._loop.call_later(
                    _NO_FILE_S, self._loop.add_reader, listener, self._accept
                )
                return
            self._welcome(connection, str(address[0]))

    def _welcome(self, connection: socket.socket, address: str) -> None:
        neighbour = self._trust.knows_neighbour_at(address)
        if not self._wires.has_room(address, neighbour=neighbour):
            self._wires.counters.connections_refused += 1
            connection.close()
            return
        connection.setblocking(False)  # noqa: FBT003 - the socket module's own
        guest = connection.fileno()
        late = self._loop.call_later(self._limits.handshake_s, self._too_late, guest)
        self._guests[guest] = _Guest(connection, address, neighbour, late)
        goes = self._lobby.enter(guest, address, neighbour=neighbour)
        if goes is not None:
            self._wires.counters.handshakes_dropped += 1
            self._send_away(goes)
        if guest in self._guests:
            self._loop.add_reader(connection, self._speaks, guest)

    def _speaks(self, guest: int) -> None:
        self._loop.remove_reader(self._guests[guest].connection)
        self._lobby.speaks(guest)
        if self._begins is None:
            self._begin()

    def _too_late(self, guest: int) -> None:
        address = self._guests[guest].address
        self._send_away(guest)
        self._trust.refuse_handshake(TimeoutError(), address)

    def _send_away(self, guest: int) -> None:
        self._lobby.leave(guest)
        gone = self._guests.pop(guest)
        gone.late.cancel()
        self._loop.remove_reader(gone.connection)
        gone.connection.close()

    # -- whose turn it is ----------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin a handshake if it is time, and come back when the next one's time has come."""
        self._begins = None
        now_s = self._loop.time()
        if now_s >= self._next_s:
            turn = self._lobby.next()
            if turn is None:
                return
            self._next_s = now_s + 1 / self._limits.handshakes_per_s
            guest = self._guests.pop(turn)
            guest.late.cancel()
            self._make_room()
            task = self._loop.create_task(self._shake_hands(guest.connection, guest.address))
            self._handshakes[task] = guest.neighbour
            task.add_done_callback(lambda task: self._handshakes.pop(task, None))
        self._begins = self._loop.call_at(self._next_s, self._begin)

    def _make_room(self) -> None:
        if len(self._handshakes) >= self._limits.handshakes_max:
            strangers = (task for task, neighbour in self._handshakes.items() if not neighbour)
            oldest = next(strangers, next(iter(self._handshakes)))
            self._wires.counters.handshakes_dropped += 1
            del self._handshakes[oldest]
            oldest.cancel()

    def _counted_wire(self) -> Wire:
        wire = self._make_wire()
        wire.counted = wire.by_tls = True
        return wire

    async def _shake_hands(self, connection: socket.socket, where: str) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._counted_wire,
                connection,
                ssl=self._trust.server,
                ssl_handshake_timeout=self._limits.handshake_s,
            )
        except (OSError, EOFError) as error:
            self._trust.refuse_handshake(error, where)
