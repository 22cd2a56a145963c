"""How a device comes by content: by a delta against what it has, else in full.

Decides that the smallest delta whose base is in the store is tried first, and that whatever goes wrong with it (nobody
has it, its base has decayed, it makes something else) means the full file. Assumes that deltas are named where the
content is, in a signed manifest; what one makes is checked against the content's own digest all the same. On failure:
the errors of the full fetch.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from agent.models.content import sha256_of
from agent.models.delta import apply_delta
from agent.models.errors import DeltaRefused, TransferError
from agent.models.limits import STALE_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.models.content import Content
    from agent.models.store import ContentStore
    from agent.models.transfers import Transfers

__all__ = ["DeltaOffer", "fetch"]

logger = logging.getLogger(__name__)


class DeltaOffer(NamedTuple):
    """A delta that somebody made."""

    base: str
    """SHA-256 of what it is applied to, in hex."""
    content: Content
    """The delta itself."""


async def fetch(
    transfers: Transfers, store: ContentStore, content: Content, deltas: Iterable[DeltaOffer] = ()
) -> None:
    """Have content in the store, whole and checked; at once if it is there.

    Raises:
        TransferError: As `Transfers.fetch`.
    """
    for offer in sorted(deltas, key=lambda offer: offer.content.size_bytes):
        if store.holds(content.sha256) or offer.content.size_bytes >= content.size_bytes:
            break
        if not store.holds(offer.base):
            continue
        try:
            await _by_delta(transfers, store, content, offer)
        except TransferError as error:
            logger.warning("%s by delta: %s", content.sha256[:12], error)
    await transfers.fetch(content)


async def _by_delta(
    transfers: Transfers, store: ContentStore, content: Content, offer: DeltaOffer
) -> None:
    await _patiently(transfers, offer.content)
    await asyncio.to_thread(_apply, store, content, offer)


def _apply(store: ContentStore, content: Content, offer: DeltaOffer) -> None:
    """Make content of its base. Blocks: for a thread."""
    data = apply_delta(store.read(offer.content.sha256), store.read(offer.base))
    if sha256_of(data) != content.sha256:
        raise DeltaRefused(f"the delta makes {sha256_of(data)[:12]}")
    store.add(data, content.chunk_bytes)


async def _patiently(transfers: Transfers, content: Content) -> None:
    """Fetch a delta, as long as there is progress."""
    task = asyncio.create_task(transfers.fetch(content))
    there = 0
    try:
        while not (await asyncio.wait({task}, timeout=STALE_S))[0]:
            progress = transfers.progress().get(content.sha256)
            before, there = there, progress.chunks_there if progress else 0
            if there <= before:
                raise DeltaRefused(f"no chunk of the delta came for {STALE_S:g} s")
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
