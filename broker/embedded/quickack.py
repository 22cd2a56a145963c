"""TCP_QUICKACK: tell the kernel to acknowledge what was read now.

Decides: nothing but how. Assumes: Linux. On failure: elsewhere, and on transports that are not
TCP, nothing happens.

Why: a client with Nagle's algorithm on (paho's default) keeps its next small packet until the
last one is acknowledged, and a receiver that has nothing to send delays that by 40 ms. Measured:
500 QoS 1 publishes of such a client in 1.0 s without, 0.06 s with it.

The wish lasts until this side sends something: the kernel then takes the connection for a dialogue, whose next answer
carries the acknowledgement. So it is said once after each write, and a client that only publishes costs nothing (a
read whose wish lasts is acknowledged within 0.1 ms, measured on Linux 6.18).
"""

import asyncio
import contextlib
import socket
from typing import Final

_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


def acknowledge_now(transport: asyncio.Transport | None) -> None:
    """Send the pending acknowledgement, and those of what is read from now on until something is sent."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or _QUICKACK is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    # The socket may just have been closed; uvloop has no number for it then.
    with contextlib.suppress(OSError, ValueError):
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
