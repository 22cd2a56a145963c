"""What the commands about models ask of a fleet, through any one device that is up.

Decides how one knows that a topic has no value: a device's own report, which it always keeps, is subscribed to last, so
what is retained on the topics before has come by then. On failure: `NoDevice` with what to try.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent.commands.client import connect, secured_by
from agent.errors import NoDevice
from agent.report import STATUS_TOPIC
from broker.topics import parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.commands.client import Login

__all__ = ["At", "Told", "ask", "tell"]

WAIT_S: Final = 5.0
"""A device shows itself every second, and takes what is published within a round trip."""


class At(NamedTuple):
    """Which device is asked, and as whom."""

    host: str
    port: int
    identity: Path | None
    login: Login | None = None

    def __str__(self) -> str:
        """For messages."""
        return f"{self.host}:{self.port}"


class Told(NamedTuple):
    """What a device told."""

    site: str
    device: str
    values: dict[str, bytes]
    """Retained values by topic."""
    follows: str | None = None
    """The model that it follows; None: it has none."""


class _Report(msgspec.Struct):
    site: str
    device: str
    follows: str | None = None


async def ask(at: At, filters: Sequence[str]) -> Told:
    """The site of a device, and what is retained under these filters on topics of the contract.

    Raises:
        NoDevice: No device answers.
    """
    values: dict[str, bytes] = {}
    async with connect(at.host, at.port, secured_by(at.identity), at.login) as client:
        for topic_filter in filters:
            await client.subscribe(topic_filter, qos=1)
        await client.subscribe(STATUS_TOPIC, qos=1)
        try:
            async with asyncio.timeout(WAIT_S):
                async for message in client.messages:
                    topic, payload = str(message.topic), bytes(message.payload)
                    if topic == STATUS_TOPIC:
                        report = msgspec.json.decode(payload, type=_Report)
                        return Told(report.site, report.device, values, report.follows)
                    if payload and parse(topic):
                        values[topic] = payload
        except (TimeoutError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
            pass
    raise NoDevice(
        f"the broker on {at} shows no report of a flockmq device within {WAIT_S:.0f} s, and `flockmq broker` alone has "
        "no models; name a device with --host and --port"
    )


async def tell(at: At, topic: str, payload: bytes) -> None:
    """Publish a retained value, and see that the device has it.

    Raises:
        NoDevice: It has not taken it.
    """
    async with connect(at.host, at.port, secured_by(at.identity), at.login) as client:
        await client.subscribe(topic, qos=1)
        await client.publish(topic, payload, qos=1, retain=True)
        try:
            async with asyncio.timeout(WAIT_S):
                async for message in client.messages:
                    if bytes(message.payload) == payload:
                        return
        except TimeoutError:
            pass
    raise NoDevice(
        f"the device on {at} did not take it; `flockmq status` there says whose publish it refused last, and why"
    )
