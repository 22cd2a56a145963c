"""How a device comes by content: by a delta against what it has, else in full.

Decides that the smallest delta whose base is in the store is tried first, and that whatever goes wrong with it (nobody
has it, its base has decayed, it makes something else) means the full file. Assumes that deltas are named where the
content is, in a signed manifest; what one makes is checked against the content's own digest all the same. On failure:
the errors of the full fetch. What came of deltas is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from agent.models.content import sha256_of
from agent.models.delta import apply_delta
from agent.models.errors import DeltaRefused, TransferError
from agent.models.limits import STALE_S
from agent.models.steps import to_its_end

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.models.content import Content
    from agent.models.manifest import Delta
    from agent.models.store import ContentStore
    from agent.models.transfers import Transfers

__all__ = ["Fetcher"]

logger = logging.getLogger(__name__)

NO_BASE: Final = "no base"
"""As it is counted: there was a delta, and nothing here that it could be applied to."""


class Fetcher:
    """Of one device.

    Args:
        transfers: What neighbours have.
        store: Where it goes, and where bases are.
    """

    def __init__(self, transfers: Transfers, store: ContentStore) -> None:
        self._transfers = transfers
        self._store = store
        self._applied = self._saved_bytes = 0
        self._failed: Counter[str] = Counter()
        self._last_failure = ""

    async def fetch(self, content: Content, deltas: Iterable[Delta] = ()) -> None:
        """Have content in the store, whole and checked; at once if it is there.

        Args:
            content: What.
            deltas: Those of its manifest; the ones towards other content count for nothing.

        Raises:
            TransferError: As `Transfers.fetch`.
        """
        if not self._store.holds(content.sha256):
            worth = [
                delta
                for delta in deltas
                if delta.target == content.sha256 and delta.content.size_bytes < content.size_bytes
            ]
            usable = [delta for delta in worth if self._store.holds(delta.base)]
            if worth and not usable:
                self._failed[NO_BASE] += 1
            for delta in sorted(usable, key=lambda delta: delta.content.size_bytes):
                if await self._by_delta(content, delta):
                    break
        await self._transfers.fetch(content)

    def report(self) -> dict[str, Any]:
        """What came of deltas so far."""
        return {
            "applied": self._applied,
            "saved_bytes": self._saved_bytes,
            "failed": dict(self._failed),
            "last_failure": self._last_failure,
        }

    async def _by_delta(self, content: Content, delta: Delta) -> bool:
        """Whether the content is there now."""
        try:
            await self._patiently(delta.content)
            await to_its_end(asyncio.to_thread(self._apply, content, delta))
        except TransferError as error:
            self._failed[error.reason] += 1
            self._last_failure = f"{content.sha256[:12]} from {delta.base[:12]}: {error}"
            logger.warning("no delta: %s", self._last_failure)
            return False
        self._applied += 1
        self._saved_bytes += content.size_bytes - delta.content.size_bytes
        return True

    def _apply(self, content: Content, delta: Delta) -> None:
        """Make content of its base. Blocks: for a thread."""
        store = self._store
        data = apply_delta(store.read(delta.content.sha256), store.read(delta.base))
        if len(data) != content.size_bytes or sha256_of(data) != content.sha256:
            raise DeltaRefused(f"the delta makes {len(data)} bytes, {sha256_of(data)[:12]}")
        store.add(data, content.chunk_bytes)

    async def _patiently(self, content: Content) -> None:
        """Fetch a delta, as long as there is progress."""
        task = asyncio.create_task(self._transfers.fetch(content))
        there = 0
        try:
            while not (await asyncio.wait({task}, timeout=STALE_S))[0]:
                progress = self._transfers.progress().get(content.sha256)
                before, there = there, progress.chunks_there if progress else 0
                if there <= before:
                    raise DeltaRefused(f"no chunk of the delta came for {STALE_S:g} s")
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
