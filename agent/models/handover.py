"""Takes the bytes of a version from an operator who is connected to a device of the fleet, for all of it.

An operator's program calls the service `offer` of a device that follows the model, with the signed manifest that it is
going to publish, in the name of the device that it is connected to: this one, or another one, which may be one without
models. This device fetches what the manifest names and is not here, deltas and variants of all kinds, one after the
other; the program hands the chunks over on `chunk/`, again in that device's name, and asks the service `chunks` what
has come. Neighbours that have some of it are asked as ever.

Decides what may be handed over: content that a manifest names which this device would take up. So not one byte comes to
lie on the disk that no operator has signed for, whoever hands it over. One offer at a time; a new one ends the one
before; one to which nothing is added for OFFER_IDLE_S ends, too. What has come stays for the next time.

On failure: the offer is refused with a line for people; the version that runs is not touched.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import ModelMissing
from agent.models.acceptance import ManifestRefused
from agent.models.content import sha256_of
from agent.models.errors import TransferError
from agent.models.limits import OFFER_IDLE_S
from broker.tasks import begin

if TYPE_CHECKING:
    from agent.models.acceptance import Acceptance
    from agent.models.content import Content
    from agent.models.library import Library
    from agent.models.manifest import Manifest
    from broker.calls import Calls, Request

__all__ = ["SERVICE", "Handover", "Offered"]

logger = logging.getLogger(__name__)

SERVICE: Final = "offer"


class Offered(msgspec.Struct, frozen=True):
    """The answer to an offer."""

    wanted: tuple[str, ...] = ()
    """Digests of what is missing here, in the order in which it is fetched."""
    refused: str = ""
    """Why nothing, or nothing more, is taken; empty: it is."""


class Handover:
    """Of one device.

    Args:
        calls: Its calls.
        device: Its id.
        library: Where content goes.
        acceptance: Whose manifests count.
    """

    def __init__(self, calls: Calls, device: str, library: Library, acceptance: Acceptance) -> None:
        self._device = device
        self._library = library
        self._acceptance = acceptance
        self._offer = ""
        """Who offered last, and the digest of the manifest."""
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        """Of who looks at an offer and begins with it."""
        self._failure = ""
        calls.serve(SERVICE, self._serve)

    async def close(self) -> None:
        """Take nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self, request: Request) -> bytes:
        try:
            accepted = await asyncio.to_thread(self._acceptance.examine, request.payload)
        except ManifestRefused as error:
            return _answer(Offered(refused=str(error)))
        async with self._turn:
            offer = f"{request.sender} {sha256_of(request.payload)}"
            return _answer(await self._take(offer, request.sender, accepted.manifest))

    async def _take(self, offer: str, sender: str, manifest: Manifest) -> Offered:
        """Begin with an offer, or say how the one under way goes."""
        try:
            missing = [
                content for content in manifest.contents if not await self._library.keeps(content)
            ]
        except (TransferError, ModelMissing) as error:
            return Offered(refused=str(error))
        wanted = tuple(dict.fromkeys(content.sha256 for content in missing))
        if offer == self._offer and self._task is not None:
            if not self._task.done():
                return Offered(wanted)
            if self._failure:
                failure, self._failure, self._offer = self._failure, "", ""
                return Offered(wanted, failure)
        await self.close()
        self._offer, self._failure = offer, ""
        if missing:
            self._library.take_from(sender)
            name = f"{self._device} taking what an operator offers"
            self._task = begin(self._fetch(missing, manifest), name)
        return Offered(wanted)

    async def _fetch(self, missing: list[Content], manifest: Manifest) -> None:
        for content in missing:
            try:
                await self._patiently(content, manifest)
            except TransferError as error:
                self._failure = str(error)
                logger.warning("%s: what an operator offers is not taken: %s", self._device, error)
                return

    async def _patiently(self, content: Content, manifest: Manifest) -> None:
        """Fetch content as long as some of it comes."""
        task = asyncio.create_task(self._library.fetch(content, manifest.deltas))
        there = -1
        try:
            while not (await asyncio.wait({task}, timeout=OFFER_IDLE_S))[0]:
                before, there = there, self._library.chunks_there(content)
                if there <= before:
                    raise TransferError(f"nothing more of it came for {OFFER_IDLE_S:g} s")
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _answer(offered: Offered) -> bytes:
    return msgspec.json.encode(offered)
