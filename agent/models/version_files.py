"""The files of a version that a device needs, and how it comes by them.

Decides which: the one for the processor, and the one that was compiled for the Edge TPU where there is one. Where the
bytes come from is the library's to say; what is missing or has decayed meanwhile is told. Assumes that the manifest was
taken up. On failure: `Later`; what was fetched stays for the next time.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from agent.errors import ModelMissing
from agent.infer.kinds import Kind
from agent.infer.standby import ModelFile
from agent.models.errors import Later, TransferError
from agent.models.library import FETCH_AGAIN_S

if TYPE_CHECKING:
    from agent.infer.standby import StandbyClient
    from agent.models.acceptance import Accepted
    from agent.models.library import Library
    from agent.models.telling import Telling

__all__ = ["VersionFiles"]


class VersionFiles:
    """Of one device and one model.

    Args:
        library: Where bytes come from.
        client: Knows whether there is an Edge TPU.
        telling: Is told what is missing.
    """

    def __init__(self, library: Library, client: StandbyClient, telling: Telling) -> None:
        self._library = library
        self._client = client
        self._telling = telling

    async def fetch(self, accepted: Accepted) -> dict[Kind, ModelFile]:
        """All that are of use here, as soon as somebody has them.

        Raises:
            Later: They cannot be had, or not be kept.
        """
        content = accepted.variant.content
        if not await asyncio.to_thread(self._library.is_here, content):
            text = f"{content.size_bytes:,} bytes are fetched from others"
            self._telling.say(accepted, "missing", text)
        variants = [accepted.variant]
        compiled = accepted.manifest.variant(Kind.EDGETPU)
        if compiled is not None and self._client.wants_compiled:
            variants.append(compiled)
        decayed = partial(self._decayed, accepted)
        try:
            return {
                variant.kind: ModelFile(
                    await self._library.read(variant.content, accepted.manifest.deltas, decayed),
                    variant.content.sha256,
                )
                for variant in variants
            }
        except (TransferError, ModelMissing) as error:
            word = error.reason if isinstance(error, TransferError) else "missing"
            self._telling.count(word, str(error))
            self._telling.say(accepted, "missing", str(error))
            raise Later(FETCH_AGAIN_S) from None

    def _decayed(self, accepted: Accepted) -> None:
        """A file of it is not any more what it was when it was stored."""
        text = "decayed: a file on the disk; what is bad of it is fetched from others"
        self._telling.count("decayed", text)
        self._telling.say(accepted, "missing", text)
