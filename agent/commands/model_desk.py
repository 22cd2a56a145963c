"""Calls of services by an operator's program, in the name of the device that it is connected to.

Decides which device is given the bytes of a version: the one that the program is connected to, if it follows the model;
where it does not, or does not take them, others that are up and serve models, those first that have said something of
this one. Who is asked in vain costs nothing but PROBE_S for all together. On failure: `NoDevice`, in a line for people.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from agent.commands.text import printable
from agent.errors import NoDevice
from agent.messages import PayloadInvalid, Status, decode
from agent.models.chunks import SERVICE as CHUNKS
from agent.models.chunks import Question, text_of
from broker.topic_names import call_topic
from broker.topics import classify, parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiomqtt

    from agent.commands.model_fleet import At, Told
    from agent.models.content import Content

__all__ = ["ANSWER_S", "Desk"]

_T = TypeVar("_T")

ANSWER_S: Final = 10.0
"""What an MQTT client's call has until it expires."""
PROBE_S: Final = 2.0
"""For devices that may not even be there: some round trips through a large fleet."""
PROBED_MAX: Final = 64
"""Devices that are asked at once whether they serve models: as many calls as a device serves at once."""
TAKERS_MAX: Final = 8
"""Devices that are offered a version one after the other. Guess."""


class _Reply(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: dict[str, str] = {}


class Desk:
    """One program.

    Args:
        client: Connected to a device.
        at: Where that is, and as whom.
        told: What the device has said of itself, and what is retained there.
    """

    def __init__(self, client: aiomqtt.Client, at: At, told: Told) -> None:
        self._client = client
        self._at = at
        self.told = told

    async def listen(self) -> None:
        """Hear answers; before anything is called."""
        topic = f"flock/v1/{self.told.site}/reply/{self.told.device}/+/+"
        await self._client.subscribe(topic, qos=1, timeout=ANSWER_S)

    async def call(self, to: str, service: str, payload: bytes, form: type[_T]) -> _T:
        """What a service of a device answers.

        Raises:
            NoDevice: It does not answer, or with an error, or not what can be read.
        """
        call = await self._send(to, service, payload)
        try:
            async with asyncio.timeout(ANSWER_S):
                async for message in self._client.messages:
                    if parse(str(message.topic)).get("id") == call:
                        return _read(to, bytes(message.payload), form)
        except TimeoutError:
            pass
        raise NoDevice(
            f"{to} does not answer through {self._at}: are you an operator? Name another device with --host"
        )

    async def takers(self, name: str, content: Content) -> AsyncIterator[str]:
        """The devices that may take the bytes of a model, the best first; who is next is found out when it is asked.

        Raises:
            NoDevice: There is none.
        """
        told = self.told
        if told.follows == name:
            yield told.device
        followers = _devices(told, "model-status", name)
        others = sorted(_devices(told, "status") - {told.device})
        others.sort(key=lambda device: device not in followers)
        question = Question(content.sha256, content.chunk_bytes, text_of(0, content.count))
        answered = await self._who_serves(others[:PROBED_MAX], msgspec.json.encode(question))
        if not answered and told.follows != name:
            raise NoDevice(
                f"{told.device} does not follow {name}, and no other device that follows a model answers: are you an "
                "operator? Give a device a [model] of that name"
            )
        for device in [each for each in others if each in answered][:TAKERS_MAX]:
            yield device

    async def _who_serves(self, devices: list[str], question: bytes) -> set[str]:
        """Those that answer a question of what they have."""
        calls = {await self._send(device, CHUNKS, question): device for device in devices}
        answered: set[str] = set()
        try:
            async with asyncio.timeout(PROBE_S):
                while calls:
                    message = await anext(self._client.messages)
                    device = calls.pop(parse(str(message.topic)).get("id", ""), None)
                    if device is not None and _serves(bytes(message.payload)):
                        answered.add(device)
        except TimeoutError:
            pass
        return answered

    async def _send(self, to: str, service: str, payload: bytes) -> str:
        """The id of a call that was sent."""
        call = f"desk-{secrets.token_hex(8)}"
        told = self.told
        topic = call_topic(site=told.site, to=to, service=service, sender=told.device, call=call)
        await self._client.publish(topic, payload, qos=1, timeout=ANSWER_S)
        return call


def _devices(told: Told, kind: str, name: str | None = None) -> set[str]:
    """Devices of which something is retained, in case of `status` that they are up."""
    found = set()
    for topic, payload in told.values.items():
        ids = parse(topic)
        if classify(topic).name != kind or (name is not None and ids.get("name") != name):
            continue
        try:
            said = decode(kind, payload)
        except PayloadInvalid:
            continue
        if not isinstance(said, Status) or said.state == "up":
            found.add(ids["device"])
    return found


def _serves(payload: bytes) -> bool:
    """Whether a reply is an answer, and no error."""
    try:
        return not msgspec.json.decode(payload, type=_Reply).error
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return False


def _read(device: str, payload: bytes, form: type[_T]) -> _T:
    try:
        reply = msgspec.json.decode(payload, type=_Reply)
        if reply.error:
            why = printable(reply.error.get("text", ""))
            raise NoDevice(f"{device} cannot take models: {why}")
        return msgspec.json.decode(reply.result, type=form)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise NoDevice(f"{device} answers what cannot be read: {error}") from None
