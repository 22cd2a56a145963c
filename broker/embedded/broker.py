"""The embedded broker: amqtt's shell, with our client loop and delivery inside.

Decides: what of amqtt runs. Its listeners, configuration, plugin manager and authentication do;
its client loop, central queue, session table and retained store are never entered, each override
saying which defect it keeps away. Nothing is patched: the overrides below are all of it.

Assumes: amqtt 0.12.x, whose private names are used here and nowhere else; made and used inside a
running event loop, asyncio's or uvloop's. On failure: `start` raises `CannotListen` and leaves
nothing open; after that a client's fault ends that client alone.
"""

import asyncio
import errno
import logging
import ssl
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import websockets.asyncio.server
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.events import BrokerEvents
from amqtt.session import Session as AmqttSession

from broker.embedded.connection import Connection
from broker.embedded.doorman import Doorman
from broker.embedded.exchange import Exchange
from broker.embedded.gate import Credentials, Gate
from broker.embedded.ingress import Ingress, LinkIngress
from broker.embedded.limits import Limits
from broker.embedded.logins import Logins
from broker.embedded.session_journal import SessionChanges, StoredSession
from broker.embedded.statistics import Statistics
from broker.embedded.websocket import listen
from broker.embedded.wire import Wires
from broker.errors import CannotListen, PortInUse
from broker.trust import TlsAt
from broker.users import Anonymous, UsersAt
from broker.words import in_words

logger = logging.getLogger(__name__)

_TCP = "default"  # amqtt wants a listener of this name
_WEBSOCKET = "websocket"
_TLS = "tls"
_LOOK_AT_USERS_S: Final = 1.0  # so long after its removal a user is connected at most


class EmbeddedBroker(Broker):  # type: ignore[misc]  # amqtt ships no types, so its base is Any
    """An MQTT 3.1.1 broker whose messages all pass through the node (`Ingress`).

    Args:
        ingress: the node.
        links: who takes the links that neighbours dial.
        device: this device's name, as it stands in `mesh/v1/{to}/{from}`.
        host: address to listen on.
        port: TCP port; 0 picks a free one, see `port`.
        websocket_port: the same for WebSocket; None for no such listener.
        tls: where to listen for TLS, and who is let in there; None for no such listener. If there
            is one, links come through it only.
        users: who may come by name and password; None: names are not looked at.
        limits: bounds.
        sessions: the persistent sessions as they were stored.

    """

    def __init__(
        self,
        ingress: Ingress,
        links: LinkIngress,
        device: str,
        *,
        host: str = "127.0.0.1",
        port: int = 1883,
        websocket_port: int | None = None,
        tls: TlsAt | None = None,
        users: UsersAt | None = None,
        limits: Limits | None = None,
        sessions: Iterable[StoredSession] = (),
    ) -> None:
        limits = limits or Limits()
        listeners = {_TCP: ListenerConfig(type=ListenerType.TCP, bind=_bind(host, port))}
        if websocket_port is not None:
            listeners[_WEBSOCKET] = ListenerConfig(
                type=ListenerType.WS, bind=_bind(host, websocket_port)
            )
        if tls is not None:
            listeners[_TLS] = ListenerConfig(type=ListenerType.TCP, bind=_bind(tls.host, tls.port))
        super().__init__(
            BrokerConfig(
                listeners=listeners,
                # No $SYS and no event logger: their plugins make a task per packet.
                plugins={
                    "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
                },
            )
        )
        self._links = links
        self._exchange = Exchange(ingress, device, limits, secured=tls is not None)
        self._exchange.restore(sessions)
        self._wires = Wires(limits, self._exchange.counters, self._exchange.slices)
        self._trust = tls.trust if tls is not None else None
        self._users = users.users if users is not None else None
        counters = self._exchange.counters
        self._logins = None if users is None else Logins(users.users, limits, counters)
        self._gate = Gate(
            self._trust,
            self._logins,
            Anonymous.DEVICE if users is None else users.anonymous,
            self._ask_plugins,
        )

    # -- the node calls ------------------------------------------------------------------------

    @property
    def subscribed(self) -> bool:
        """Whether there is any subscription that `route` could reach."""
        return len(self._exchange.trie) > 0

    def route(self, topic: str, payload: bytes, qos: int, *, retained: bool = False) -> None:
        """Put a live message into the buffers of the sessions that subscribed to its topic."""
        self._exchange.route(topic, payload, qos, retained=retained)

    def take_changes(self) -> SessionChanges | None:
        """Hand over what changed of persistent sessions, to be stored before the next `flush`."""
        self._exchange.writes.prepare()
        return self._exchange.journal.take(self._exchange.everything)

    def changes_lost(self) -> None:
        """Learn that the changes taken last were not stored; the next ones tell everything."""
        self._exchange.journal.lost()

    def flush(
        self, *, committed: bool, pressed: bool = False, turn: int = 0, durable: int = 0
    ) -> None:
        """Write every touched session's buffer once.

        Args:
            committed: whether everything published so far is kept. If not, the sessions that
                published at QoS 1 or 2 and wait for an acknowledgement are closed without one, so
                that they publish again.
            pressed: whether publishers are to wait for their acknowledgements, since the mesh is behind.
            turn: the number of this turn; it never falls.
            durable: the turn up to which what was published is acknowledged. Acknowledgements of
                this turn wait for a flush in which it has come so far.

        """
        self._exchange.flush(committed=committed, pressed=pressed, turn=turn, durable=durable)

    async def keep_users(self) -> None:
        """End the connections of users who are removed or changed; cancel to stop."""
        if self._users is None:
            return
        version, problem = self._users.version, ""
        while True:
            await asyncio.sleep(_LOOK_AT_USERS_S)
            self._users.refresh()
            if self._users.version == version:
                continue
            version = self._users.version
            if self._users.problem:
                if self._users.problem != problem:
                    logger.error("nobody is let in by a password: %s", self._users.problem)
            else:
                logger.info("%d users may come by a password", len(self._users))
                self._exchange.end_changed_users(self._users)
            problem = self._users.problem

    def judge_again(self) -> None:
        """End the connections of those whose certificates have ceased to count."""
        for session in list(self._exchange.sessions.values()):
            output, holder = session.output, session.allowed.holder
            if output is None or holder is None or self._trust is None:
                continue
            standing = self._trust.standing(holder.certificate)
            if not standing.counts:
                output.drop(f"its certificate is {standing.value}")

    def statistics(self) -> Statistics:
        """Return how many there are of each at this moment, and a copy of the counters."""
        return Statistics(
            connections=len(self._wires.open),
            sessions=len(self._exchange.sessions),
            subscriptions=len(self._exchange.trie),
            counters=replace(self._exchange.counters),
            users=None if self._users is None else len(self._users),
            users_problem="" if self._users is None else self._users.problem,
        )

    @property
    def port(self) -> int:
        """The TCP port that is listened on; after `start`."""
        return self._listening_port(_TCP)

    @property
    def websocket_port(self) -> int:
        """The WebSocket port that is listened on; after `start`, and only if there is one."""
        return self._listening_port(_WEBSOCKET)

    @property
    def link_port(self) -> int:
        """The port that neighbours dial, that of TLS if there is one; after `start`."""
        return self._listening_port(_TCP if self._trust is None else _TLS)

    def _listening_port(self, listener: str) -> int:
        port: int = next(iter(self._servers[listener].instance.sockets)).getsockname()[1]
        return port

    # -- amqtt's shell -------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the listeners.

        Mends: a port in use comes out of amqtt as a logged traceback and an error without the way
        out, and a listener that was already open stays open. Its central queue and session
        monitor, which deletes the persistent sessions of clients without a user name, are not
        started.

        Raises:
            PortInUse: another program has one of the ports.
            CannotListen: another reason why an address cannot be used.

        """
        self.transitions.start()
        await self.plugins_manager.fire_event(BrokerEvents.PRE_START, wait=True)
        try:
            await self._start_listeners()
        except Exception:
            for server in self._servers.values():
                await server.close_instance()
            self._servers.clear()
            self.transitions.starting_fail()
            raise
        self.transitions.starting_success()
        await self.plugins_manager.fire_event(BrokerEvents.POST_START, wait=True)

    async def shutdown(self) -> None:
        """Close the listeners and every connection; their wills are published.

        Harmless when the broker is not running.

        Mends: amqtt closes its listeners last, so that clients come back while it is going down.
        """
        if self.transitions.state != "started":
            return
        for server in self._servers.values():
            server.instance.close()
        await self._wires.end_all("the broker is shutting down")
        if self._logins is not None:
            self._logins.close()
        await super().shutdown()
        self._servers.clear()

    async def _create_server_instance(
        self,
        listener_name: str,
        listener_type: ListenerType,
        address: str | None,
        port: int,
        ssl_context: ssl.SSLContext | None,
    ) -> asyncio.Server | websockets.asyncio.server.Server | Doorman:
        """Open one listener.

        Mends: amqtt makes a task and two stream adapters per connection, never limits what a
        client may send before or after CONNECT, and waits for ever for the CONNECT itself.
        """
        host = (address or "").strip("[]") or None
        try:
            if listener_name == _TLS and self._trust is not None:
                doorman = Doorman(self._trust, self._wires, self._connection)
                doorman.listen(host or "", port)
                return doorman
            if listener_type == ListenerType.TCP:
                loop = asyncio.get_running_loop()
                return await loop.create_server(self._connection, host, port, reuse_address=True)
            return await listen(self._wires, self._connection, host, port, ssl_context)
        except OSError as error:
            kind = "TCP" if listener_type == ListenerType.TCP else "WebSocket"
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(kind, host or "*", port) from None
            raise CannotListen(kind, host or "*", port, in_words(error)) from None

    def _connection(self) -> Connection:
        return Connection(self._wires, self._exchange, self._gate, self._links)

    async def _ask_plugins(self, credentials: Credentials) -> bool:
        welcome: bool = await self._authenticate(credentials, self.listeners_config[_TCP])
        return welcome

    async def internal_message_broadcast(
        self, topic: str, data: bytes, qos: int | None = None
    ) -> None:
        """Publish for a plugin, through the node like everything else.

        Mends: amqtt puts it into a central queue without a bound.
        """
        self._exchange.publish(None, topic, data, qos or 0, retained=False)
        self._exchange.ingress.request_flush()

    async def retain_message(
        self,
        source_session: AmqttSession | None,  # noqa: ARG002 - amqtt's signature
        topic_name: str | None,
        data: bytes | bytearray | None,
        qos: int | None = None,
    ) -> None:
        """Retain for a plugin, in the node's map.

        Mends: amqtt keeps a second retained store, in memory and without a bound.
        """
        self._exchange.publish(None, topic_name or "", bytes(data or b""), qos or 0, retained=True)
        self._exchange.ingress.request_flush()


def _bind(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
