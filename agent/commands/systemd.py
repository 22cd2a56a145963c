"""What systemd is told of a service, and what it tells: the notification protocol (man sd_notify), and the journal.

Decides when a device is ready, and that it says it is alive as long as its event loop turns: where that hangs, systemd
ends it and starts it anew. Assumes the variables that systemd sets for a service. Without them there is nobody to tell,
and nothing happens. On failure: what cannot be said is not; a service that is not heard is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import Final

__all__ = ["Supervisor", "is_journal"]

SIGNS_PER_TIME: Final = 3
"""Signs of life within the time after which systemd gives up; man sd_watchdog_enabled says half of it."""


class Supervisor:
    """systemd, where it has started this process."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # One that begins with @ has no file: the kernel wants a NUL there.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        patience_us = os.environ.get("WATCHDOG_USEC", "")
        meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._patience_s = int(patience_us) / 1e6 if meant and patience_us.isdecimal() else 0.0

    def tell(self, state: str) -> None:
        """Say one of READY=1, WATCHDOG=1, STOPPING=1."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
        ):
            notified.sendto(state.encode(), socket.MSG_DONTWAIT, self._address)

    async def show_life(self) -> None:
        """Say again and again, for ever, that the event loop turns, if that is asked for."""
        while self._patience_s:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._patience_s / SIGNS_PER_TIME)


def is_journal() -> bool:
    """Whether standard error is the journal: a service is told which file that is."""
    try:
        file = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{file.st_dev}:{file.st_ino}"
