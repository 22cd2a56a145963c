"""Tasks that nobody waits for before the device stops: what ends one other than in good order must not go unseen.

Decides nothing. Assumes a task whose name says what it does. On failure: it is logged, and what the others do goes on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["tell_failure"]

logger = logging.getLogger(__name__)


def tell_failure(task: asyncio.Task[Any]) -> None:
    """Log that a task has ended by an exception, which is a defect; for `add_done_callback`."""
    if not task.cancelled() and task.exception() is not None:
        logger.error("%s has failed", task.get_name(), exc_info=task.exception())
