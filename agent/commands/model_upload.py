"""Hands the bytes of a version over to a device of the fleet, before the version is published.

Which devices may take them, `model_desk.py` knows: first the one that this machine is connected to, if it follows the
model. Where one does not take them, or goes away meanwhile, the next one is asked. The other end is
`agent/models/handover.py`: the signed manifest is offered, the device says what it lacks, and gets it chunk by chunk,
deltas first. What it has of it already, from a hand-over that broke off or from its neighbours, is not sent. So a
version is published only when a device of the fleet has all of it.

Decides how much is under way: the device acknowledges chunks as it takes them in, and WINDOW of them are not
acknowledged yet. Assumes a device that follows the model. On failure: `NoDevice`, with what each device said that was
asked; what a device has got it keeps.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from agent.commands.client import connect, secured_by
from agent.commands.model_desk import Desk
from agent.commands.text import printable
from agent.errors import NoDevice
from agent.models.chunks import SERVICE as CHUNKS
from agent.models.chunks import (
    Answer,
    Question,
    bits_of,
    encode_chunk,
    text_of,
    transfer_of,
)
from agent.models.handover import SERVICE as OFFER
from agent.models.handover import Offered
from broker.topic_names import chunk_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiomqtt

    from agent.commands.model_fleet import At, Told
    from agent.models.content import Content
    from agent.models.manifest import Manifest
    from agent.models.package import Package

__all__ = ["HandedOver", "hand_over"]

WINDOW: Final = 8
"""Chunks under way: 480 KiB of most models, as one device asks of another."""
LOOK_S: Final = 0.2
"""How often the device is asked whether it has begun, or whether it is done."""
IDLE_S: Final = 15.0
"""A device that takes nothing more for so long is given up; half of what it waits for us."""


class HandedOver(NamedTuple):
    """What came of it."""

    device: str
    """Who took it."""
    sent_bytes: int
    lacking: int = 0
    """Files that it has not, and that were not here, either."""


async def hand_over(
    at: At, told: Told, payload: bytes, manifest: Manifest, package: Package | None
) -> HandedOver:
    """Have a device keep all content of a version.

    Args:
        at: Which device one is connected to, and as whom.
        told: What it has said of itself.
        payload: The signed manifest, as it is to be published.
        manifest: What is in it.
        package: Where the bytes are; None: not here, and a device that takes the version is asked what it lacks.

    Raises:
        ModelMissing: A file of the package has changed.
        NoDevice: None takes it.
    """
    async with connect(at.host, at.port, secured_by(at.identity), at.login) as client:
        desk = Desk(client, at, told)
        await desk.listen()
        failures = []
        async for device in desk.takers(manifest.name, manifest.contents[0]):
            sender = _Sender(client, desk, device, payload, signed=at.identity is not None)
            try:
                wanted = await sender.offer()
                if package is None:
                    return HandedOver(device, 0, len(wanted))
                return HandedOver(device, await sender.send(wanted, manifest, package))
            except NoDevice as error:
                failures.append(str(error))
    raise NoDevice("; ".join(failures))


class _Sender:
    """One hand-over."""

    def __init__(
        self, client: aiomqtt.Client, desk: Desk, device: str, payload: bytes, *, signed: bool
    ) -> None:
        self._client = client
        self._desk = desk
        self._device = device
        self._payload = payload
        self._signed = signed
        self._sent_bytes = 0

    async def send(self, wanted: tuple[str, ...], manifest: Manifest, package: Package) -> int:
        contents = {content.sha256: content for content in manifest.contents}
        if not contents.keys() >= set(wanted):
            raise NoDevice(
                f"{self._device} asks for what is not of this version; name another device with --host"
            )
        with _bars() as bars:
            for number, sha256 in enumerate(wanted, 1):
                content = contents[sha256]
                data = await asyncio.to_thread(package.read_content, sha256)
                what = f"{number} of {len(wanted)} to {self._device}"
                bar = bars.add_task(what, total=content.size_bytes)
                await self._fill(content, data, partial(bars.update, bar))
        await self._settle()
        return self._sent_bytes

    async def _fill(self, content: Content, data: bytes, show: Callable[..., None]) -> None:
        """Send what is missing, until nothing is."""
        clock = asyncio.get_running_loop().time
        before, since_s = -1, clock()
        while True:
            have = await self._have(content)
            there = -1 if have is None else have.bit_count()
            show(completed=min(max(there, 0) * content.chunk_bytes, content.size_bytes))
            if there == content.count:
                return
            if there > before:
                before, since_s = there, clock()
            elif clock() - since_s > IDLE_S:
                raise NoDevice(
                    f"{self._device} has taken nothing more for {IDLE_S:.0f} s; try again, and what it has is not sent "
                    "twice"
                )
            else:
                await asyncio.sleep(LOOK_S)
            if have is None:
                await self.offer()  # it says why, if it has given up
            else:
                await self._push(content, data, have, show)

    async def _push(
        self, content: Content, data: bytes, have: int, show: Callable[..., None]
    ) -> None:
        """Send each chunk that is missing."""
        told, transfer = self._desk.told, transfer_of(content.sha256)
        topic = chunk_topic(site=told.site, to=self._device, sender=told.device, transfer=transfer)
        missing = [index for index in range(content.count) if not have >> index & 1]
        for at in range(0, len(missing), WINDOW):
            sent_bytes = 0
            publishes = []
            for index in missing[at : at + WINDOW]:
                begin, length = content.span(index)
                sent_bytes += length
                chunk = encode_chunk(index, 0, content.count, data[begin : begin + length])
                publishes.append(self._client.publish(topic, chunk, qos=1, timeout=IDLE_S))
            await asyncio.gather(*publishes)
            self._sent_bytes += sent_bytes
            show(advance=sent_bytes)

    async def _settle(self) -> None:
        """Wait until the device keeps all of it, synced."""
        clock = asyncio.get_running_loop().time
        since_s = clock()
        while await self.offer():
            if clock() - since_s > IDLE_S:
                raise NoDevice(
                    f"{self._device} has not stored all of it after {IDLE_S:.0f} s; try again"
                )
            await asyncio.sleep(LOOK_S)

    async def offer(self) -> tuple[str, ...]:
        """Offer the version; what is wanted of it."""
        offered = await self._desk.call(self._device, OFFER, self._payload, Offered)
        if offered.refused:
            advice = "" if self._signed else "; come as an operator, with --identity"
            raise NoDevice(f"{self._device} does not take it: {printable(offered.refused)}{advice}")
        return offered.wanted

    async def _have(self, content: Content) -> int | None:
        """The chunks that the device has; None: it has not begun."""
        nothing = text_of(0, content.count)
        question = Question(content.sha256, content.chunk_bytes, nothing)
        answer = await self._desk.call(self._device, CHUNKS, msgspec.json.encode(question), Answer)
        return None if answer.have is None else bits_of(answer.have, content.count)


def _bars() -> Progress:
    """Bars on a terminal, nothing elsewhere."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
