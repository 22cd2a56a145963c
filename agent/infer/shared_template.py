"""The one template of all inference clients of a device, there as long as one of them wants it.

Decided here: the first worker that is wanted starts it, and so does the first one after it was lost; it ends with the
last client. Assumed: a device has one event loop, so that is what its clients have in common; each calls `hold` before
and `release` after everything else.
Failure: a template that does not start is WorkerLost for whoever wanted the worker; the next one tries again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.infer.template_process import TemplateProcess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.infer.limits import Limits
    from agent.infer.settings import Settings
    from agent.infer.template_process import Forked

__all__ = ["SharedTemplate"]

_BY_LOOP: dict[asyncio.AbstractEventLoop, SharedTemplate] = {}


class SharedTemplate:
    """Of one event loop. Made by `hold`.

    Attributes:
        holders: How many want it.
    """

    def __init__(self) -> None:
        self.holders = 0
        self._process: TemplateProcess | None = None
        self._starting = asyncio.Lock()

    @classmethod
    def hold(cls) -> SharedTemplate:
        """Returns the running loop's; it stays until `release` was called as often."""
        template = _BY_LOOP.setdefault(asyncio.get_running_loop(), cls())
        template.holders += 1
        return template

    async def release(self) -> None:
        """Ends the process with its last holder, and waits until it is gone."""
        self.holders -= 1
        if self.holders == 0:
            del _BY_LOOP[asyncio.get_running_loop()]
            if self._process is not None:
                await self._process.close()

    async def fork(self, settings: Settings, descriptors: Sequence[int], limits: Limits) -> Forked:
        """See `TemplateProcess.fork`. Raises WorkerLost, OSError."""
        async with self._starting:  # one, however many want a worker
            if self._process is None or self._process.lost:
                self._process = await TemplateProcess.start(limits)
            process = self._process
        return await process.fork(settings, descriptors, limits)
