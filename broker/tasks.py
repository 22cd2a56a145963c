"""Tasks that nobody waits for before the device stops: what ends one other than in good order must not go unseen.

Decides nothing. Assumes a task whose name says what it does. On failure: it is logged, and what the others do goes on.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["begin"]

logger = logging.getLogger(__name__)


def begin(coroutine: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
    """Begin a task, whose failure, which is a defect, is logged under its name at once."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    task.add_done_callback(_tell_failure)
    return task


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("%s has failed", task.get_name(), exc_info=task.exception())
