"""What `watch` and `status` share: an MQTT client to a device's broker, and one sentence when it is not there."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiomqtt

from agent.errors import NoDevice

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["connect", "secured_by"]

TIMEOUT_S: Final = 3.0
"""To connect; a device on the same network that needs longer is in trouble."""


@asynccontextmanager
async def connect(
    host: str, port: int, secured: ssl.SSLContext | None = None
) -> AsyncIterator[aiomqtt.Client]:
    """A client of the broker at an address.

    Args:
        host: Address or name.
        port: Its port.
        secured: For TLS; None: plain MQTT.

    Raises:
        NoDevice: Nothing answers there, or it went away.
    """
    try:
        async with aiomqtt.Client(host, port, timeout=TIMEOUT_S, tls_context=secured) as client:
            yield client
    except aiomqtt.MqttError as error:
        raise NoDevice(
            f"no MQTT broker answers on {host}:{port} ({error}); "
            "start a device, or say where it listens with --host and --port"
        ) from None


def secured_by(identity: Path | None) -> ssl.SSLContext | None:
    """What `connect` needs to come as the holder of an identity folder; None without one.

    Raises:
        FlockmqError: The folder cannot be used.
    """
    if identity is None:
        return None
    from broker.credentials import system_moment
    from broker.trust import Trust

    return Trust(identity, system_moment).client
