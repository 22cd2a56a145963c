"""Many connections of one attacker, each following a script, within a share of a core.

Decides pacing: after each step of a script the process sleeps until its processor time, its own and the kernel's on its
behalf, is within SHARE of the time that has passed since the window began. So an attacker is as strong as what a fifth
of this machine's core buys, however cheap or dear one attempt is.

A script is a generator that yields what it waits for, and is begun anew when it ends or the other side hangs up.
Connections come from many addresses of 127.0.0.0/8 in turn, as those of somebody who has a whole network would.
Assumes loopback. On failure: an attempt that fails is counted by its error, and the next one begins.
"""

from __future__ import annotations

import errno
import itertools
import selectors
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "READ",
    "SHARE",
    "WRITE",
    "Crowd",
    "Pace",
    "Script",
    "Wait",
    "dial",
    "read",
    "shake_hands",
]

SHARE: Final = 0.2
"""Of a core."""
_IDLE_S: Final = 0.002
"""Looked for what is ready at least so often."""
_ADDRESSES: Final = 250
_BIND_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT: the port is chosen with the destination, so none run out."""


class Wait(NamedTuple):
    """What a script waits for."""

    sock: socket.socket | None
    events: int
    seconds: float = 0.0
    """Without a socket: for how long."""


READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
Script = Generator[Wait, None, None]


class Pace:
    """Keeps this process within SHARE of a core."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A window begins."""
        self._began_s, self._used_s = time.monotonic(), time.process_time()

    @property
    def share(self) -> float:
        """Of a core, since the window began."""
        return (time.process_time() - self._used_s) / max(time.monotonic() - self._began_s, 1e-9)

    @property
    def debt_s(self) -> float:
        """How long to sleep now; negative: not at all."""
        used_s = time.process_time() - self._used_s
        return used_s / SHARE - (time.monotonic() - self._began_s)


class Crowd:
    """Runs scripts.

    Args:
        script: Makes one.
        width: How many connections at once.
    """

    def __init__(self, script: Callable[[], Script], width: int) -> None:
        self._script = script
        self._width = width
        self._selector = selectors.DefaultSelector()
        self._asleep: list[tuple[float, Script]] = []
        self._alive = 0
        self.begun = 0
        self.errors: Counter[str] = Counter()
        self.pace = Pace()

    def run(self, seconds: float) -> float:
        """Attack for so long, then close everything. Returns the share of a core that it took."""
        self.pace.begin()
        ends_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < ends_s:
            debt_s = self.pace.debt_s
            if debt_s > 0:
                time.sleep(min(debt_s, ends_s - now_s))  # in a process of its own
                continue
            if self._alive < self._width:
                self._alive += 1
                self.begun += 1
                self._step(self._script())
            self._wake(now_s)
            waits_s = 0.0 if self._alive < self._width else _IDLE_S
            for key, _ in self._selector.select(waits_s):
                self._selector.unregister(key.fileobj)
                self._step(key.data)
                if self.pace.debt_s > _IDLE_S:
                    break
        share = self.pace.share
        self._close()
        return share

    def _wake(self, now_s: float) -> None:
        due = [script for at_s, script in self._asleep if at_s <= now_s]
        if due:
            self._asleep = [entry for entry in self._asleep if entry[0] > now_s]
        for script in due:
            self._step(script)

    def _step(self, script: Script) -> None:
        try:
            wait = next(script)
        except StopIteration:
            self._alive -= 1
        except (OSError, EOFError) as error:
            self.errors[_name(error)] += 1
            self._alive -= 1
        else:
            if wait.sock is None:
                self._asleep.append((time.monotonic() + wait.seconds, script))
            else:
                self._selector.register(wait.sock, wait.events, script)

    def _close(self) -> None:
        waiting = [key.data for key in self._selector.get_map().values()]
        for script in (*waiting, *(script for _, script in self._asleep)):
            script.close()
        self._selector.close()
        self._selector = selectors.DefaultSelector()
        self._asleep, self._alive = [], 0


def _name(error: Exception) -> str:
    return getattr(error, "reason", None) or type(error).__name__


def addresses(block: int) -> Iterator[str]:
    """Loopback addresses of one attacker, over and over."""
    return itertools.cycle([f"127.{block}.0.{number}" for number in range(1, _ADDRESSES + 1)])


def dial(port: int, source: str) -> Generator[Wait, None, socket.socket]:
    """A connection from an address, once it is there. It is reset when it is closed, and leaves nothing behind."""
    sock = socket.socket()
    try:
        sock.setblocking(False)  # noqa: FBT003 - the socket module's own
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.setsockopt(socket.IPPROTO_IP, _BIND_NO_PORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((source, 0))
        if sock.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS and not _is_there(sock):
            yield Wait(sock, WRITE)
            sock.getpeername()  # raises where there is no connection
    except BaseException:
        sock.close()
        raise
    return sock


def _is_there(sock: socket.socket) -> bool:
    """Whether it is connected already, as on loopback it is unless the other side's queue is full."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def shake_hands(
    sock: socket.socket, context: ssl.SSLContext
) -> Generator[Wait, None, ssl.SSLSocket]:
    """The same connection by TLS."""
    secured = context.wrap_socket(sock, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                yield Wait(secured, READ)
            else:
                return secured
    except BaseException:
        secured.close()
        raise


def read(sock: socket.socket, size_bytes: int = 65_536) -> Generator[Wait, None, bytes]:
    """What comes next; EOFError when the other side has closed."""
    while True:
        try:
            data = sock.recv(size_bytes)
        except (ssl.SSLWantReadError, BlockingIOError):
            yield Wait(sock, READ)
        else:
            if not data:
                raise EOFError
            return data


def write(sock: socket.socket, data: bytes) -> Generator[Wait, None, None]:
    """Send all of it."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except (ssl.SSLWantWriteError, BlockingIOError):
            yield Wait(sock, WRITE)
