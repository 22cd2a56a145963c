"""Calls: ask a service of another device, and offer services to others.

Decides how a question finds its answer. A call is one message on `call/{to}/{service}/{from}/{id}`, its payload the
request as JSON; the answer comes on `reply/{to}/{from}/{id}` as `{"result": ...}` or `{"error": {"kind": "...",
"text": "..."}}`, where kind is `no-service`, `busy` or `failed`. Any MQTT client can speak this; see topics.md.

Assumes the mesh's promise for unicast: delivered once, or told at the deadline that it was not. A device that restarts
within the deadline may serve the same call twice, so services that change something should bear it. A call or reply
whose sender is not the device that its topic names is counted and ignored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from broker.errors import CallFailed, CallTimeout, Refused, Unreachable
from broker.topic_names import call_topic, reply_topic
from broker.topics import CALL_DEADLINE_MS, classify, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.mesh.events import Undelivered
    from broker.node import Delivered, Node

    Handler = Callable[["Request"], bytes | Coroutine[None, None, bytes]]

__all__ = ["Calls", "Request"]

logger = logging.getLogger(__name__)

WAITING_MAX: Final = 1_024
"""Own calls without an answer yet; the mesh has room for twice as many bundles."""
HANDLERS_MAX: Final = 64
"""Requests that are being served at once; beyond it callers are told `busy`. Guess."""
HANDLER_S_MAX: Final = 600.0
"""How long a handler may take: no call's deadline is later."""
GRACE_S: Final = 0.25
"""At its deadline the mesh says why a call was not delivered; its word is waited for so long."""
ERROR_CHARACTERS_MAX: Final = 500
"""Of the text of an error that travels back."""


class Request(NamedTuple):
    """A call as a service gets it."""

    sender: str
    """The device that asks."""
    call: str
    payload: bytes
    """JSON."""


class _Error(msgspec.Struct):
    kind: str
    text: str


class _Reply(msgspec.Struct, omit_defaults=True):
    result: msgspec.Raw = msgspec.Raw()
    error: _Error | None = None


class _Waiting(NamedTuple):
    to: str
    service: str
    answer: asyncio.Future[bytes]


class Calls:
    """The calls of one device, out and in.

    Args:
        node: The device's node.
        site: The site in the topics.
    """

    def __init__(self, node: Node, site: str) -> None:
        self._node = node
        self._site = site
        self._serial = 0
        self._waiting: dict[str, _Waiting] = {}
        self._handlers: dict[str, Handler] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._prefixes = (f"flock/v1/{site}/call/", f"flock/v1/{site}/reply/")
        self.forged = 0
        """Calls and replies whose topic names another sender than the one they came from."""
        node.subscribe(self._heard)
        node.watch_undelivered(self._undelivered)

    async def call(
        self, to: str, service: str, payload: bytes, *, deadline_ms: int = CALL_DEADLINE_MS
    ) -> bytes:
        """Ask a service of a device.

        Args:
            to: The device; this one too.
            service: A name of `[a-z0-9-]`, at most 32.
            payload: The request, JSON.
            deadline_ms: When to give up, at most 600,000.

        Returns:
            The result, JSON.

        Raises:
            Unreachable: There is no way to the device.
            CallTimeout: No answer came in time; the service may have been at work.
            CallFailed: The service answered with an error.
            Refused: Too much is under way.
            ValueError: The payload is not JSON, or a name or the deadline is outside its limits.
        """
        _check_json(payload)
        if len(self._waiting) >= WAITING_MAX:
            raise Refused(f"{WAITING_MAX} calls wait for answers already")
        self._serial += 1
        call = f"{self._node.incarnation:x}-{self._serial:x}"
        topic = call_topic(
            site=self._site, to=to, service=service, sender=self._node.device, call=call
        )
        self._node.publish_nowait(topic, payload, deadline_ms=deadline_ms)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[call] = _Waiting(to, service, answer)
        try:
            async with asyncio.timeout(deadline_ms / 1000 + GRACE_S):
                return await answer
        except TimeoutError:
            raise CallTimeout(to, service, f"no answer within {deadline_ms} ms") from None
        finally:
            del self._waiting[call]

    def serve(self, service: str, handler: Handler) -> None:
        """Answer calls of a service from now on.

        The handler gets a `Request` and returns JSON, or is a coroutine that does. A plain function must be quick: it
        holds up the device. What it raises goes back to the caller as an error of kind `failed`.
        """
        self._handlers[service] = handler

    async def close(self) -> None:
        """Stop serving; handlers at work are cancelled."""
        self._handlers.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # What the mesh delivers.

    def _heard(self, batch: list[Delivered]) -> None:
        for message in batch:
            if not message.topic.startswith(self._prefixes) or message.rebuild:
                continue
            names = parse(message.topic)
            if not names or names["to"] != self._node.device:
                continue
            if names["from"] != message.origin:
                self.forged += 1
            elif "service" in names:
                self._serve(names["service"], Request(names["from"], names["id"], message.payload))
            else:
                self._answered(names["from"], names["id"], message.payload)

    def _answered(self, sender: str, call: str, payload: bytes) -> None:
        waiting = self._waiting.get(call)
        if waiting is None or waiting.to != sender or waiting.answer.done():
            return
        try:
            reply = msgspec.json.decode(payload, type=_Reply)
        except (ValueError, RecursionError) as error:
            failed = CallFailed(sender, waiting.service, "failed", f"unreadable reply: {error}")
            waiting.answer.set_exception(failed)
            return
        if reply.error is None:
            waiting.answer.set_result(bytes(reply.result))
        else:
            waiting.answer.set_exception(
                CallFailed(sender, waiting.service, reply.error.kind, reply.error.text)
            )

    def _undelivered(self, event: Undelivered) -> None:
        if classify(event.topic).name != "call":
            return
        waiting = self._waiting.get(parse(event.topic)["id"])
        if waiting is None or waiting.answer.done():
            return
        if event.reason == "unreachable":
            waiting.answer.set_exception(Unreachable(waiting.to, waiting.service))
        else:
            why = f"the call was not acknowledged by its deadline ({event.reason})"
            waiting.answer.set_exception(CallTimeout(waiting.to, waiting.service, why))

    # The serving side.

    def _serve(self, service: str, request: Request) -> None:
        handler = self._handlers.get(service)
        if handler is None:
            self._fail(request, "no-service", f"{self._node.device} has no service {service}")
            return
        if len(self._running) >= HANDLERS_MAX:
            self._fail(request, "busy", f"{HANDLERS_MAX} requests are being served")
            return
        try:
            result = handler(request)
        except Exception as error:  # noqa: BLE001 - whatever a service raises is its caller's to know
            self._fail(request, "failed", _text(error))
            return
        if not isinstance(result, Coroutine):
            self._reply(request, result)
            return
        task = asyncio.get_running_loop().create_task(self._finish(request, result))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # Who is cancelled before the first step has awaited nothing.
        task.add_done_callback(lambda _: result.close())

    async def _finish(self, request: Request, answering: Coroutine[None, None, bytes]) -> None:
        try:
            async with asyncio.timeout(HANDLER_S_MAX):
                payload = await answering
        except Exception as error:  # noqa: BLE001 - whatever a service raises is its caller's to know
            self._fail(request, "failed", _text(error))
        else:
            self._reply(request, payload)

    def _reply(self, request: Request, payload: bytes) -> None:
        try:
            _check_json(payload)
            self._publish(request, _Reply(result=msgspec.Raw(payload)))
        except (TypeError, ValueError, Refused) as error:
            self._fail(request, "failed", _text(error))

    def _fail(self, request: Request, kind: str, text: str) -> None:
        try:
            self._publish(request, _Reply(error=_Error(kind, text[:ERROR_CHARACTERS_MAX])))
        except Refused as error:
            logger.warning("%s: no answer to %s: %s", self._node.device, request.sender, error)

    def _publish(self, request: Request, reply: _Reply) -> None:
        topic = reply_topic(
            site=self._site, to=request.sender, sender=self._node.device, call=request.call
        )
        self._node.publish_nowait(topic, msgspec.json.encode(reply))


def _check_json(payload: bytes) -> None:
    try:
        msgspec.json.decode(payload)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"what calls and replies carry is JSON: {error}") from None


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
