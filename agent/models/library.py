"""Where a device has the bytes of models from: its store, its folder of packages, or its neighbours.

Decides that what comes from the folder goes into the store, too, deltas included, so that neighbours get it from there;
and that the store never gives up the files of the version that runs and of the one that ran before it. On failure:
`TransferError` or `ModelMissing`; what was fetched stays for the next time. While nobody has the bytes, `read` waits.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from agent.errors import ModelMissing
from agent.models.errors import ContentDamaged, TransferError
from agent.models.fetch import Fetcher
from agent.models.steps import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.models.content import Content
    from agent.models.manifest import Delta
    from agent.models.shipped import ModelFiles
    from agent.models.store import ContentStore
    from agent.models.transfers import Transfers

__all__ = ["FETCH_AGAIN_S", "Library"]

logger = logging.getLogger(__name__)

FETCH_AGAIN_S: Final = 60.0
"""After bytes could not be fetched or kept: somebody may make room on the disk. Guess."""


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
        self._fetcher = Fetcher(transfers, store)

    def is_here(self, content: Content) -> bool:
        """Whether nothing need be fetched."""
        return self._store.holds(content.sha256) or self._files.holds(content.sha256)

    async def read(
        self,
        content: Content,
        deltas: Sequence[Delta] = (),
        decayed: Callable[[], None] = lambda: None,
    ) -> bytes:
        """The bytes of a model, checked.

        Args:
            content: Which.
            deltas: Those of its manifest: neighbours get what of them is here, and what is missing comes by one, if
                its base is here.
            decayed: Called where the file has decayed on the disk, before what is bad of it is fetched.

        Raises:
            TransferError: They cannot be had, or not be kept.
            ModelMissing: What is in the folder cannot be used.
        """
        bases = [delta.base for delta in deltas if delta.target == content.sha256]
        await self._offer(content.sha256, *(delta.content.sha256 for delta in deltas))
        if not self._store.holds(content.sha256):
            if self._files.holds(content.sha256):
                return await asyncio.to_thread(self._files.read, content.sha256)
            await self._offer(*bases)
        await self._fetcher.fetch(content, deltas)
        try:
            return await asyncio.to_thread(self._store.read, content.sha256)
        except ContentDamaged:
            decayed()
            await self._fetcher.fetch(content, deltas)
            return await asyncio.to_thread(self._store.read, content.sha256)

    async def bring(self, content: Content, deltas: Sequence[Delta]) -> None:
        """Have the bytes of a model here, whenever that is: trouble with the disk is waited out, too."""
        while True:
            try:
                await self.read(content, deltas)
            except (TransferError, ModelMissing):
                await asyncio.sleep(FETCH_AGAIN_S)
            else:
                return

    async def keeps(self, content: Content) -> bool:
        """Whether neighbours can fetch it from here; what is in the folder is put where they can.

        Raises:
            TransferError: There is no room for it, or the disk fails.
            ModelMissing: What is in the folder cannot be used.
        """
        await to_its_end(asyncio.to_thread(self._take_in, (content.sha256,)))
        return self._store.holds(content.sha256)

    async def fetch(self, content: Content, deltas: Sequence[Delta] = ()) -> None:
        """Have content where neighbours can fetch it.

        Raises:
            TransferError: As `Transfers.fetch`.
        """
        await self._fetcher.fetch(content, deltas)

    def take_from(self, device: str) -> None:
        """An operator hands over what is being fetched, in the name of this device."""
        self._transfers.giver = device

    def chunks_there(self, content: Content) -> int:
        """How much of what is being fetched is here."""
        progress = self._transfers.progress().get(content.sha256)
        return progress.chunks_there if progress else 0

    async def runs(self, *names: str) -> None:
        """This version runs now, from these files: they stay, and so do those of the version before it."""
        running, *before = self._store.kept or ((),)
        same = set(names) <= set(running) or set(running) <= set(names)
        # An Edge TPU, and with it one of a version's files, may come and go.
        together = tuple(dict.fromkeys((*running, *names)))
        versions = (together, *before) if same else (names, running)
        try:
            await asyncio.to_thread(self._store.keep, versions)
        except TransferError as error:
            logger.warning("what runs may be evicted: %s", error)

    def report(self) -> dict[str, Any]:
        """What is being fetched, and what came of deltas."""
        return {
            "fetching": {
                name: {
                    "chunks_there": progress.chunks_there,
                    "chunks": progress.chunks,
                    "peers": list(progress.peers),
                }
                for name, progress in self._transfers.progress().items()
            },
            "deltas": self._fetcher.report(),
        }

    async def close(self) -> None:
        """Fetch and serve no more."""
        await self._transfers.close()

    async def _offer(self, *names: str) -> None:
        """Put what of this is in the folder into the store, for neighbours; the model runs without that, too."""
        try:
            await to_its_end(asyncio.to_thread(self._take_in, names))
        except (TransferError, ModelMissing) as error:
            logger.warning("neighbours cannot fetch a model from here: %s", error)

    def _take_in(self, names: Sequence[str]) -> None:
        """Blocks: for a thread."""
        for name in names:
            if not self._store.holds(name) and self._files.holds(name):
                self._store.add(self._files.read(name))
