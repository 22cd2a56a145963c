"""What `watch` and `status` share: an MQTT client to a device's broker, and one sentence when it is not there."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiomqtt

from agent.errors import NoDevice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["connect"]

TIMEOUT_S: Final = 3.0
"""To connect; a device on the same network that needs longer is in trouble."""


@asynccontextmanager
async def connect(host: str, port: int) -> AsyncIterator[aiomqtt.Client]:
    """A client of the broker at an address.

    Raises:
        NoDevice: Nothing answers there, or it went away.
    """
    try:
        async with aiomqtt.Client(host, port, timeout=TIMEOUT_S) as client:
            yield client
    except aiomqtt.MqttError as error:
        raise NoDevice(
            f"no MQTT broker answers on {host}:{port} ({error}); "
            "start a device, or say where it listens with --host and --port"
        ) from None
