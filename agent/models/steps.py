"""Steps that are not cut short: who cancels one waits for its end.

Decides nothing but that. A thread goes on whoever waits for it, and what it opens then is nobody's to close; an
inference that is cut short costs the worker. Assumes that such a step ends by itself, in seconds. On failure: what the
step raises after the cancellation is lost with its result.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["to_its_end"]

T = TypeVar("T")


def _let_be(result: object) -> None:
    del result


async def to_its_end(step: Coroutine[None, None, T], undo: Callable[[T], None] = _let_be) -> T:
    """What a step brings about.

    Args:
        step: What is to be done.
        undo: Is given that if nobody waits for it any more.
    """
    working = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with contextlib.suppress(asyncio.CancelledError):  # who cancels again waits, too
                await asyncio.wait({working})
        with contextlib.suppress(Exception):
            undo(working.result())
        raise
