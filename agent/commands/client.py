"""What the commands share that ask a device: an MQTT client to its broker, and one sentence when it is not let in.

Decides whom it talks to: by TLS a device of the fleet whose certificate counts, and that one device where the caller
knows which it means; that is seen before a word of MQTT is said. Assumes that on a plain connection whatever answers on
this machine is meant. On failure: `NoDevice`, with what to try.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiomqtt

from agent.errors import ConfigError, NoDevice
from broker.tls import explain
from broker.trust import NotAdmitted
from broker.words import in_words

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from broker.trust import Trust

__all__ = ["Login", "Secured", "connect", "secured_by"]

TIMEOUT_S: Final = 3.0
"""To connect; a device on the same network that needs longer is in trouble."""
LOGIN_TIMEOUT_S: Final = 30.0
"""The same with a password, which takes time to try (`admission_s` in broker/embedded/limits.py)."""
_ADVICE: Final = {
    134: "user name or password are wrong",
    135: "it lets nobody in without a name, or not this one; say --user, or come by --identity",
    136: "it cannot let anybody in at the moment; try again",
}
"""By reason code, as paho gives what a CONNACK of MQTT 3.1.1 says."""


class Login(NamedTuple):
    """Who one is to a device's users."""

    name: str
    password: bytes


class Secured:
    """TLS to a device of the fleet.

    Args:
        trust: Who one is to the fleet, and whom one believes.
        device: Whom one wants to talk to; None: any device.
    """

    def __init__(self, trust: Trust, device: str | None = None) -> None:
        self.context = trust.client
        self.name = ""
        """Who has answered, by its certificate."""
        self.refused = ""
        """Why it was not talked to."""
        secured = self

        class Judged(ssl.SSLSocket):
            def do_handshake(self, *arguments: Any) -> None:
                super().do_handshake(*arguments)
                secured._judge(trust, device, self)

        self.context.sslsocket_class = Judged

    def _judge(self, trust: Trust, device: str | None, connection: ssl.SSLSocket) -> None:
        fields, where = connection.getpeercert(), str(connection.getpeername()[0])
        try:
            holder = (
                trust.admit(fields, where)
                if device is None
                else trust.admit_neighbour(fields, device, where)
            )
        except NotAdmitted as error:
            self.refused = str(error)
            connection.close()  # paho would leave it open
            raise ConnectionError(str(error)) from None
        self.name = holder.identity.name


@asynccontextmanager
async def connect(
    host: str, port: int, secured: Secured | None = None, login: Login | None = None
) -> AsyncIterator[aiomqtt.Client]:
    """A client of the broker at an address.

    Args:
        host: Address or name.
        port: Its port.
        secured: For TLS; None: plain MQTT.
        login: As whom; None: without a name.

    Raises:
        NoDevice: Nothing answers there, it is another, it does not let one in, or it went away.
    """
    let_in = False
    try:
        async with aiomqtt.Client(
            host,
            port,
            timeout=TIMEOUT_S if login is None else LOGIN_TIMEOUT_S,
            tls_context=None if secured is None else secured.context,
            username=None if login is None else login.name,
            password=None if login is None else login.password.decode(),
        ) as client:
            let_in = True
            yield client
    except aiomqtt.MqttError as error:
        where = f"{host}:{port}"
        if let_in:
            raise NoDevice(
                f"the broker on {where} has ended the connection; is the device still up?"
            ) from None
        raise _no_device(where, error, secured) from None


def _no_device(where: str, error: aiomqtt.MqttError, secured: Secured | None) -> NoDevice:
    if secured is not None and secured.refused:
        return NoDevice(
            f"what answers on {where} is not talked to: {secured.refused}; name whom you mean with --device"
        )
    advice = _ADVICE.get(getattr(getattr(error, "rc", None), "value", 0))
    if advice:
        return NoDevice(f"the broker on {where} refuses the connection: {advice}")
    if "[SSL" in str(error):
        return NoDevice(
            f"what answers on {where} is not talked to: {explain(error)}; say where the device listens with --host and "
            "--port, and who you are to its fleet with --identity"
        )
    silent = secured is None and "timed out" in str(error)
    return NoDevice(
        f"no MQTT broker answers on {where} ({in_words(error)}); "
        "start a device, or say where it listens with --host and --port"
        + (" (is that its port for TLS? then come with --identity)" if silent else "")
    )


def secured_by(identity: Path | None, device: str | None = None) -> Secured | None:
    """What `connect` needs to come as the holder of an identity folder; None without one.

    Args:
        identity: The folder.
        device: Whom one wants to talk to; None: any device of the fleet.

    Raises:
        FlockmqError: The folder cannot be used.
        ConfigError: There is none, and one device is meant.
    """
    if identity is None:
        if device is not None:
            raise ConfigError(
                "--device is seen by its certificate: name your --identity, and come by TLS"
            )
        return None
    from broker.credentials import system_moment
    from broker.trust import Trust

    return Secured(Trust(identity, system_moment), device)
