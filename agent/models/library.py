"""Where a device has the bytes of models from: its store, its folder of packages, or its neighbours.

Decides that what comes from the folder goes into the store, too, so that neighbours get it from there; and that the
store never gives up the version that runs and the one that ran before it. On failure: `ModelMissing` with the reason;
what was fetched stays for the next time. While nobody has the bytes, `read` waits.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from agent.errors import ModelMissing
from agent.models.errors import ContentDamaged, TransferError

if TYPE_CHECKING:
    from agent.models.content import Content
    from agent.models.shipped import ModelFiles
    from agent.models.store import ContentStore
    from agent.models.transfers import Transfers

__all__ = ["Library"]

logger = logging.getLogger(__name__)


class Library:
    """Of one device.

    Args:
        files: Its folder of packages.
        store: Its content.
        transfers: What its neighbours have.
    """

    def __init__(self, files: ModelFiles, store: ContentStore, transfers: Transfers) -> None:
        self._files = files
        self._store = store
        self._transfers = transfers
        self._kept = tuple(sorted(store.kept))[:1]

    def is_here(self, content: Content) -> bool:
        """Whether nothing need be fetched."""
        return self._store.holds(content.sha256) or self._files.holds(content.sha256)

    async def read(self, content: Content) -> bytes:
        """The bytes of a model, checked.

        Raises:
            ModelMissing: They cannot be had, or not be kept.
        """
        try:
            if not self._store.holds(content.sha256) and self._files.holds(content.sha256):
                data = await asyncio.to_thread(self._files.read, content.sha256)
                await self._offer(data)
                return data
            await self._transfers.fetch(content)
            try:
                return await asyncio.to_thread(self._store.read, content.sha256)
            except ContentDamaged:
                await self._transfers.fetch(content)
                return await asyncio.to_thread(self._store.read, content.sha256)
        except TransferError as error:
            raise ModelMissing(str(error)) from None

    async def runs(self, sha256: str) -> None:
        """This version runs now: it and the one before it stay."""
        if sha256 not in self._kept[:1]:
            self._kept = (sha256, *self._kept[:1])
        try:
            await asyncio.to_thread(self._store.keep, self._kept)
        except TransferError as error:
            logger.warning("what runs may be evicted: %s", error)

    async def close(self) -> None:
        """Fetch and serve no more."""
        await self._transfers.close()

    async def _offer(self, data: bytes) -> None:
        """Let neighbours have it; the model runs without that, too."""
        try:
            await asyncio.to_thread(self._store.add, data)
        except TransferError as error:
            logger.warning("neighbours cannot fetch a model from here: %s", error)
