"""How a process that a device has started comes to its end, and what it said before.

Decided here: who is to end is left to it for a while, since its own end comes with a telling status, then killed; the
last of what it wrote to standard error goes with what it died of.
Assumed: it alone holds the other end of that pipe.
Failure: a process that even SIGKILL does not end (stuck in a driver) is logged and left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from agent.infer.limits import Limits

__all__ = ["End", "LastWords", "Mortal", "bury"]

logger = logging.getLogger(__name__)

CHUNK_BYTES = 4096


class Mortal(Protocol):
    """What is asked of a process."""

    @property
    def pid(self) -> int:
        """Its number."""

    def kill(self) -> None:
        """Ends it at once; ProcessLookupError where it has ended."""

    async def wait(self) -> int | None:
        """Waits for its end; its exit status as subprocess has it, None where nobody can say."""


class End(NamedTuple):
    """Of a process."""

    cause: str
    """As it fits behind "the worker": "was ended by SIGSEGV"."""
    words: str
    """What it said last, in brackets, behind a blank; empty: nothing."""


class LastWords:
    """The pipe to be a process's standard error, of which the end is kept. Use `with` until the process has it."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept = b""
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._from, self.pipe = os.pipe()
        os.set_blocking(self._from, False)
        self._loop.add_reader(self._from, self._read)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the end that the process has by now; where it never came to that, all is over."""
        os.close(self.pipe)

    async def wait(self) -> None:
        """Waits until all that will be said was said."""
        await self._over.wait()

    @property
    def text(self) -> str:
        """The last line of them that says something, in brackets behind a blank; empty: there is none."""
        lines = self._kept.decode("utf-8", "replace").splitlines()
        # What TFLite greets with says nothing of a death.
        telling = [line for line in lines if line.strip() and not line.startswith("INFO:")]
        return f" ({telling[-1].strip()[:200]})" if telling else ""

    def _read(self) -> None:
        try:
            words = os.read(self._from, CHUNK_BYTES)
        except BlockingIOError:
            return
        if words:
            self._kept = (self._kept + words)[-self._bytes_max :]
            logger.debug("standard error of an inference process: %r", words)
        else:
            self._loop.remove_reader(self._from)
            os.close(self._from)
            self._over.set()


async def bury(process: Mortal, words: LastWords, grace_s: float, limits: Limits) -> End:
    """Waits so long for a process to end by itself, kills it then, and says how it ended."""
    ending = asyncio.create_task(_end(process, words))
    if grace_s > 0:
        await asyncio.wait({ending}, timeout=grace_s)
    if not ending.done():
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.wait({ending}, timeout=limits.kill_timeout_s)
    if not ending.done():
        ending.cancel()
        logger.error("inference process %d does not end, SIGKILL or not", process.pid)
        return End("does not end", words.text)
    return End(_describe(ending.result()), words.text)


async def _end(process: Mortal, words: LastWords) -> int | None:
    """Waits for the process and for the rest of what it wrote."""
    status = await process.wait()
    await words.wait()
    return status


def _describe(status: int | None) -> str:
    """Says how a process ended, from its exit status as subprocess reports it."""
    if status is None:
        return "ended, and its template could not say how"
    if status < 0:
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:  # of the realtime ones only the first and the last have names
            return f"was ended by signal {-status}"
    return f"ended with status {status}"
