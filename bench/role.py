"""The inside of a role: `python -m bench.role module:Class`, asked one thing after another through its input.

A verb is a public coroutine of the class; its answer is JSON. The end of the input ends the role, so none outlives the
benchmark. Runs on uvloop where it exists, as devices do, whatever system the role belongs to.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from agent.event_loop import loop_factory
from broker.collector import spare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Part", "main"]

logger = logging.getLogger(__name__)

CLOSE_S: Final = 4.0
LINE_BYTES_MAX: Final = 64 * 1024 * 1024


class Part:
    """What a role's class is: verbs are its coroutines, `open` the first of them."""

    open: Callable[..., Awaitable[Any]]
    """Begins; takes the settings."""

    async def close(self) -> None:
        """End."""


async def _serve(part: Part, answers: int) -> None:
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    while line := await reader.readline():
        verb, arguments = json.loads(line)
        try:
            answer = {"value": await getattr(part, verb)(**arguments)}
            if verb == "open":
                spare()  # as `flockmq run` does, for every system's Python alike
        except Exception as error:
            logger.exception("%s failed", verb)
            answer = {"problem": f"{type(error).__name__}: {error}"}
        data = json.dumps(answer).encode() + b"\n"
        while data:
            data = data[os.write(answers, data) :]
    async with asyncio.timeout(CLOSE_S):
        await part.close()


def main() -> None:
    """Run the role that the command line names."""
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.WARNING)
    module, _, name = sys.argv[1].partition(":")
    part: Part = getattr(importlib.import_module(module), name)()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(part, answers))


if __name__ == "__main__":
    main()
