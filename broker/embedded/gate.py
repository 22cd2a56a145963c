"""Who a client is, and whether it is let in: by certificate, by user name and password, as nobody.

Decides in this order. By TLS a certificate says who it is (`broker/trust.py`). Where there are local
users, a user name must come with its password, and a plain client without one is refused, unless
the configuration says what it may do. Who shows both may do what both may. A link is a device's
own: by TLS where there is an identity; else only where clients without a name may be a program
of the device. Last, amqtt's authentication plugins are asked.

Assumes: nothing of the session was touched before. On failure: `NotLetIn` with the CONNACK's return
code; who it is told to, and counted by, is `Trust` or `Logins`. A plugin may fail in any way; its
client stays out, and the others stay in.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from amqtt.session import Session as AmqttSession

from broker.embedded.allowed import Allowed
from broker.embedded.bodies import Connect
from broker.embedded.links import claimed_device
from broker.embedded.logins import Logins, NotLetIn
from broker.trust import Holder, NotAdmitted, Trust
from broker.users import ANYBODY, Anonymous, User

logger = logging.getLogger(__name__)


class Credentials(AmqttSession):  # type: ignore[misc]  # amqtt ships no types, so its base is Any
    """What authentication plugins see of a client that wants in.

    Mends: amqtt's session builds a state machine (175 us) and three queues for every CONNECT,
    accepted or not.
    """

    def __init__(self, connect: Connect, transport: asyncio.Transport) -> None:
        peer = transport.get_extra_info("peername") or (None, None)
        self.client_id = connect.client_id
        self.clean_session = connect.clean
        self.username = connect.username
        # Plugins expect text; bytes that are none match no password rather than raising.
        self.password = (
            None if connect.password is None else connect.password.decode(errors="replace")
        )
        self.remote_address, self.remote_port = peer[0], peer[1]
        self.ssl_object = transport.get_extra_info("ssl_object")
        self.attributes: dict[str, Any] = {}
        self.is_anonymous = False

    def __hash__(self) -> int:
        return id(self)


class Gate:
    """That of one broker.

    Args:
        trust: who is let in by a certificate; None: there is no TLS.
        logins: who is let in by a password; None: there are no users, and names are not looked at.
        anonymous: what becomes of plain clients without a name, where there are users.
        plugins: asks amqtt's authentication plugins.

    """

    def __init__(
        self,
        trust: Trust | None,
        logins: Logins | None,
        anonymous: Anonymous,
        plugins: Callable[[Credentials], Awaitable[bool]],
    ) -> None:
        self._trust = trust
        self._logins = logins
        self._anonymous = anonymous
        self._plugins = plugins

    async def admit(self, connect: Connect, transport: asyncio.Transport) -> Allowed:
        """Return who a client is.

        Raises:
            NotLetIn: it is not let in.

        """
        where = str((transport.get_extra_info("peername") or ("somewhere",))[0])
        try:
            holder = self._certified(connect.client_id, transport, where)
        except NotAdmitted:
            raise NotLetIn from None
        user = await self._user(connect, holder, where)
        try:
            welcome = await self._plugins(Credentials(connect, transport))
        except Exception:
            # A plugin may fail in any way; its client stays out and the others stay in.
            logger.exception("authentication of %s failed", connect.client_id)
            welcome = False
        if not welcome:
            raise NotLetIn
        return Allowed(holder, user)

    def _certified(self, client_id: str, transport: asyncio.Transport, where: str) -> Holder | None:
        """Return who a client is by its certificate; None for one without TLS, where that is allowed.

        Raises:
            NotAdmitted: its certificate does not count, or a neighbour's is not its own.

        """
        if self._trust is None:
            return None
        peer = claimed_device(client_id)
        if transport.get_extra_info("ssl_object") is None:
            if peer is not None:
                raise self._trust.refuse_plain_link(where)
            return None
        fields = transport.get_extra_info("peercert")
        if peer is not None:
            return self._trust.admit_neighbour(fields, peer, where)
        return self._trust.admit(fields, where)

    async def _user(self, connect: Connect, holder: Holder | None, where: str) -> User | None:
        """Return who a client is by its password; None: it needs none.

        Raises:
            NotLetIn: it does need one, or that was not it.

        """
        logins, linked = self._logins, claimed_device(connect.client_id) is not None
        if logins is None or (linked and holder is not None):
            return None
        if connect.username is None:
            if holder is not None or self._anonymous is Anonymous.DEVICE:
                return None
            if self._anonymous is Anonymous.VIEWER and not linked:
                return ANYBODY
            raise logins.nameless(where)
        if linked:  # a user is no device
            raise NotLetIn
        return await logins.login(connect.username, connect.password, where)
