"""A worker for the next version, started while that version's bytes are on their way.

Decides when: at some moment of the first half of what the fetch takes at its pace, so that a fleet that fetches
together does not start its workers together, and none at the end, when each also loads and tries the version. A start
costs a second of processor time on a Pi. Assumes that the client makes one spare, however often it is asked. On
failure: nothing is said; whoever prepares the version meets the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from random import SystemRandom
from typing import TYPE_CHECKING, Final

from agent.infer.backend import InferenceError
from agent.models.pace import pull_s

if TYPE_CHECKING:
    from agent.infer.standby import StandbyClient
    from agent.models.content import Content
    from agent.models.library import Library

__all__ = ["Sparing"]

PART: Final = 0.5
"""Of the fetch."""


class Sparing:
    """Of one device.

    Args:
        client: What has the workers.
        library: Knows what has come.
    """

    def __init__(self, client: StandbyClient, library: Library) -> None:
        self._client = client
        self._library = library
        self._task: asyncio.Task[None] | None = None

    def begin(self, content: Content) -> None:
        """This is about to be fetched."""
        self._cancel()
        self._task = asyncio.create_task(self._make(content))

    async def close(self) -> None:
        """Start nothing more."""
        self._cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _make(self, content: Content) -> None:
        await asyncio.sleep(SystemRandom().uniform(0.0, PART * pull_s(content)))
        if self._library.chunks_there(content):  # else nobody may have it for long, or a delta does
            with contextlib.suppress(InferenceError, OSError):
                await self._client.make_spare()
