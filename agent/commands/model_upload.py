"""Hands the bytes of a version over to the device that this machine is connected to, before the version is published.

The other end is `agent/models/handover.py`: the signed manifest is offered, the device says what it lacks, and gets it
chunk by chunk, deltas first. What it has of it already, from a hand-over that broke off or from its neighbours, is not
sent. So a version is published only when a device of the fleet has all of it.

Decides how much is under way: the device acknowledges chunks as it takes them in, and WINDOW of them are not
acknowledged yet. Assumes a device that follows the model. On failure: `NoDevice` or `ModelUnusable`, and nothing was
published; what the device has got it keeps.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

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
from agent.errors import ModelUnusable, NoDevice
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
from broker.topic_names import call_topic, chunk_topic, reply_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    import aiomqtt

    from agent.commands.model_fleet import At, Told
    from agent.models.content import Content
    from agent.models.manifest import Manifest
    from agent.models.package import Package

__all__ = ["hand_over"]

_T = TypeVar("_T")

WINDOW: Final = 8
"""Chunks under way: 256 KiB of most models, as one device asks of another."""
ANSWER_S: Final = 10.0
"""What an MQTT client's call has until it expires."""
LOOK_S: Final = 0.2
"""How often the device is asked whether it has begun, or whether it is done."""
IDLE_S: Final = 15.0
"""A device that takes nothing more for so long is given up; half of what it waits for us."""


class _Reply(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, str] = {}


async def hand_over(
    at: At, told: Told, payload: bytes, manifest: Manifest, package: Package
) -> int:
    """Have the device keep all content of a version.

    Args:
        at: Which device, and as whom.
        told: What it has said of itself.
        payload: The signed manifest, as it is to be published.
        manifest: What is in it.
        package: Where the bytes are.

    Returns:
        How many bytes were sent.

    Raises:
        ModelUnusable: The device does not take it.
        ModelMissing: A file of the package has changed.
        NoDevice: It does not answer, or not any more.
    """
    async with connect(at.host, at.port, secured_by(at.identity), at.login) as client:
        return await _Sender(client, at, told, payload).send(manifest, package)


class _Sender:
    """One hand-over."""

    def __init__(self, client: aiomqtt.Client, at: At, told: Told, payload: bytes) -> None:
        self._client = client
        self._at = at
        self._told = told
        self._payload = payload
        self._sent_bytes = 0

    async def send(self, manifest: Manifest, package: Package) -> int:
        own = self._told.device
        await self._client.subscribe(
            f"flock/v1/{self._told.site}/reply/{own}/{own}/+", qos=1, timeout=ANSWER_S
        )
        contents = {content.sha256: content for content in manifest.contents}
        wanted = [contents[sha256] for sha256 in await self._offer()]
        with _bars() as bars:
            for number, content in enumerate(wanted, 1):
                data = await asyncio.to_thread(package.read_content, content.sha256)
                what = f"{number} of {len(wanted)} to {own}"
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
                    f"{self._told.device} has taken nothing more for {IDLE_S:.0f} s, so nothing was published; publish "
                    "again, and what it has is not sent twice"
                )
            else:
                await asyncio.sleep(LOOK_S)
            if have is None:
                await self._offer()  # it says why, if it has given up
            else:
                await self._push(content, data, have, show)

    async def _push(
        self, content: Content, data: bytes, have: int, show: Callable[..., None]
    ) -> None:
        """Send each chunk that is missing."""
        own = self._told.device
        transfer = transfer_of(content.sha256)
        topic = chunk_topic(site=self._told.site, to=own, sender=own, transfer=transfer)
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
        while await self._offer():
            if clock() - since_s > IDLE_S:
                raise NoDevice(
                    f"{self._told.device} has not stored all of it after {IDLE_S:.0f} s, so nothing was published; "
                    "publish again"
                )
            await asyncio.sleep(LOOK_S)

    async def _offer(self) -> tuple[str, ...]:
        """Offer the version; what is wanted of it."""
        offered = await self._call(OFFER, self._payload, Offered)
        if offered.refused:
            advice = "; come as an operator, with --identity" if self._at.identity is None else ""
            raise ModelUnusable(
                f"{self._told.device} does not take it, so nothing was published: {offered.refused}{advice}"
            )
        return offered.wanted

    async def _have(self, content: Content) -> int | None:
        """The chunks that the device has; None: it has not begun."""
        nothing = text_of(0, content.count)
        question = Question(content.sha256, content.chunk_bytes, nothing)
        answer = await self._call(CHUNKS, msgspec.json.encode(question), Answer)
        return None if answer.have is None else bits_of(answer.have, content.count)

    async def _call(self, service: str, payload: bytes, form: type[_T]) -> _T:
        site, own = self._told.site, self._told.device
        call = f"desk-{secrets.token_hex(8)}"
        await self._client.publish(
            call_topic(site=site, to=own, service=service, sender=own, call=call),
            payload,
            qos=1,
            timeout=ANSWER_S,
        )
        topic = reply_topic(site=site, to=own, sender=own, call=call)
        try:
            async with asyncio.timeout(ANSWER_S):
                async for message in self._client.messages:
                    if str(message.topic) == topic:
                        return self._read(bytes(message.payload), form)
        except TimeoutError:
            pass
        raise NoDevice(
            f"{own} on {self._at} does not answer, so nothing was published: has it a [model] in its device.toml, and "
            "are you an operator? Name another device with --host, or say --no-upload where one has the files"
        )

    def _read(self, payload: bytes, form: type[_T]) -> _T:
        try:
            reply = msgspec.json.decode(payload, type=_Reply)
            if reply.error:
                raise ModelUnusable(
                    f"{self._told.device} cannot take models: {reply.error.get('text', '')}"
                )
            return msgspec.json.decode(reply.result, type=form)
        except ValueError as error:  # msgspec's errors are ValueErrors
            raise NoDevice(f"{self._told.device} answers what cannot be read: {error}") from None


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
