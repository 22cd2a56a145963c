"""Connects to a host by name, with one look-up at a time.

The name of a machine that is off may take the resolver many seconds, and nothing can stop its thread. So a look-up that
outlasts an attempt goes on and serves the next, and each has a daemon thread of its own: those of the loop are few,
other names need them, and a process waits for them before it ends. Assumes that hosts are few. On failure: what the
resolver says is raised to whoever asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

__all__ = ["Lookup"]


class Lookup:
    """One host and port."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._asked: asyncio.Future[list[Any]] | None = None

    def __str__(self) -> str:
        return f"{self._host}:{self._port}"

    async def connect(
        self, protocol: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext | None = None
    ) -> None:
        """Connect to the first of the host's addresses that answers.

        Args:
            protocol: Makes what becomes of the connection.
            context: For TLS; None: plain.

        Raises:
            OSError: None does, or the name does not resolve.
            ValueError: The name cannot be one.
        """
        loop = asyncio.get_running_loop()
        addresses = await self._resolve()
        for number, (family, _, _, _, address) in enumerate(addresses, start=1):
            try:
                await loop.create_connection(
                    protocol,
                    address[0],
                    address[1],
                    family=family,
                    ssl=context,
                    # Who it is stands in its certificate's URI, wherever it listens.
                    server_hostname=None if context is None else "",
                )
            except OSError:
                if number == len(addresses):
                    raise
            else:
                return

    async def _resolve(self) -> list[Any]:
        with contextlib.suppress(socket.gaierror):  # an address needs no resolver
            return _addresses(self._host, self._port, socket.AI_NUMERICHOST)
        if self._asked is None:
            loop = asyncio.get_running_loop()
            asked = loop.create_future()
            try:
                threading.Thread(target=self._ask, args=(loop, asked), daemon=True).start()
            except RuntimeError as error:
                # No room for another thread; the next attempt may have it.
                raise OSError(errno.EAGAIN, str(error)) from None
            asked.add_done_callback(self._answered)
            self._asked = asked
        return await asyncio.shield(self._asked)

    def _ask(self, loop: asyncio.AbstractEventLoop, asked: asyncio.Future[list[Any]]) -> None:
        """In the thread."""
        tell: Callable[[], object]
        try:
            tell = partial(asked.set_result, _addresses(self._host, self._port))
        except (OSError, ValueError, OverflowError) as error:
            tell = partial(asked.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(tell)

    def _answered(self, asked: asyncio.Future[list[Any]]) -> None:
        self._asked = None
        asked.exception()  # the attempt that waits for it raises it; if none does, the next one asks again


def _addresses(host: str, port: int, flags: int = 0) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
