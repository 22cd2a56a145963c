"""Connects to a host by name, with one look-up at a time.

The name of a machine that is off may take the resolver many seconds. Its thread cannot be stopped, and look-ups started
anew with each attempt would use up the threads that the living ones' names need. So a look-up that outlasts an attempt
goes on and serves the next.
"""

from __future__ import annotations

import asyncio
import socket
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
        if self._asked is None:
            loop = asyncio.get_running_loop()
            self._asked = asyncio.ensure_future(
                loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            )
            self._asked.add_done_callback(self._answered)
        return await asyncio.shield(self._asked)

    def _answered(self, asked: asyncio.Future[list[Any]]) -> None:
        self._asked = None
        if not asked.cancelled():
            asked.exception()  # the attempt that waits for it raises it; if none does, the next one asks again
