"""One worker process as the device sees it: start, ask, watch, end. It is never revived.

Decided here: an answer that does not come in time and a socket that closes both make the worker
*lost*. A lost worker is killed at once, the request under way fails with WorkerLost, and every
later one too; starting another is the client's business. So is a request that is cancelled: the
worker may still be writing its answer into the shared memory, and only killing it ends that.
Assumed: the caller never has more than one request under way.
Failure: a worker that is not forked, or ends before it greets, is WorkerLost; how it ended is `ending.py`'s to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

from agent.infer import wire
from agent.infer.backend import RuntimeUnavailable
from agent.infer.ending import LastWords, bury
from agent.infer.records import WorkerLost
from agent.infer.wire import Message, Verb

if TYPE_CHECKING:
    from agent.infer.limits import Limits
    from agent.infer.settings import Settings
    from agent.infer.shared_template import SharedTemplate
    from agent.infer.template_process import Forked

__all__ = ["WorkerProcess"]

SOCKET_CLOSED: Final = "closed its socket"


class WorkerProcess:
    """A started worker. Made by `start`, ended by `close`.

    Attributes:
        runtime: The runtime that the worker found.
        pid: Its process id.
        lost: Set once it can no longer be asked.
    """

    def __init__(
        self, process: Forked, channel: socket.socket, words: LastWords, limits: Limits
    ) -> None:
        self.runtime = ""
        self.pid = process.pid
        self.lost = asyncio.Event()
        self._process = process
        self._channel = channel
        self._words = words
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._answer: asyncio.Future[Message] | None = None
        self._patience_s = self._deadline_s = 0.0
        self._watchdog: asyncio.TimerHandle | None = None
        """Of all requests, since one for each costs an inference of 1 ms up to 30 us (measured)."""
        self._blame = ""
        self._burial: asyncio.Task[str] | None = None
        self._loop.add_reader(channel, self._read)

    @classmethod
    async def start(
        cls, template: SharedTemplate, memory: int, settings: Settings, limits: Limits
    ) -> WorkerProcess:
        """Starts a process on the shared memory of that descriptor.

        It is ready when it has a runtime for one of the kinds in its settings.

        Raises WorkerLost, RuntimeUnavailable.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        with theirs, LastWords(limits.last_words_bytes_max) as words:
            try:
                descriptors = (theirs.fileno(), memory, words.pipe)
                process = await template.fork(settings, descriptors, limits)
            except BaseException:
                ours.close()
                raise
        worker = cls(process, ours, words, limits)
        try:
            await worker._greet()
        except BaseException:
            await worker.close()
            raise
        return worker

    async def _greet(self) -> None:
        """Waits for the runtime's name. Raises WorkerLost, RuntimeUnavailable."""
        first = await self._wait(self._limits.start_timeout_s)
        if first.verb is Verb.UNAVAILABLE:
            raise RuntimeUnavailable(first.text)
        self.runtime = first.text

    async def ask(
        self,
        verb: Verb,
        timeout_s: float,
        *,
        value: int = 0,
        text: str = "",
        file: int | None = None,
    ) -> Message:
        """Sends a request and returns its answer. Raises WorkerLost."""
        if self.lost.is_set():
            raise WorkerLost(self._blame)
        self._number = (self._number + 1) % 2**32
        packet = Message(verb, self._number, value, text.encode()).pack()
        try:
            # Never blocks: with one request under way the socket's buffer is empty.
            if file is None:
                self._channel.send(packet)
            else:
                socket.send_fds(self._channel, [packet], [file])
        except OSError:
            # It is dead and the reader was not told yet. The burial knows of what.
            self._closed_by_worker()
            raise WorkerLost(await self._buried()) from None
        answer = await self._wait(timeout_s)
        if answer.number != self._number:
            self.kill(f"answered request {answer.number} instead of {self._number}")
            raise WorkerLost(self._blame)
        return answer

    def kill(self, blame: str) -> None:
        """Ends the process at once and makes it lost, for that reason."""
        if not self.lost.is_set():
            with contextlib.suppress(ProcessLookupError):  # it has ended, and nobody was told yet
                self._process.kill()
            self._hang_up(blame, 0)

    async def wait_lost(self) -> str:
        """Waits until it is lost and gone; returns why, for a person."""
        await self.lost.wait()
        return await self._buried()

    async def close(self) -> None:
        """Ends the process, gently if it is idle, and waits until it is gone."""
        if not self.lost.is_set():
            self._hang_up("was closed", self._limits.stop_grace_s)
        await self._buried()

    def _closed_by_worker(self) -> None:
        """Its end is near, and left to itself it comes with a telling status."""
        if not self.lost.is_set():
            self._hang_up(SOCKET_CLOSED, self._limits.stop_grace_s)

    def _hang_up(self, blame: str, grace_s: float) -> None:
        """Closes the socket, which an idle worker takes as its end, and sees to the rest."""
        self._blame = blame
        self.lost.set()
        self._loop.remove_reader(self._channel)
        self._channel.close()
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._burial = asyncio.create_task(self._bury(grace_s))

    async def _wait(self, timeout_s: float) -> Message:
        """Waits for the next message. Raises WorkerLost."""
        self._answer = self._loop.create_future()
        self._patience_s = timeout_s
        self._deadline_s = self._loop.time() + timeout_s
        if self._watchdog is None or self._watchdog.when() > self._deadline_s:
            self._watch()
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.kill("was cancelled")
            raise
        finally:
            self._answer = None

    def _watch(self) -> None:
        """Has the watchdog look at the deadline."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = self._loop.call_at(self._deadline_s, self._look)

    def _look(self) -> None:
        """The watchdog: whether a request has no answer in time."""
        self._watchdog = None
        if self._answer is None or self._answer.done():
            return
        if self._loop.time() < self._deadline_s:  # of a later request than the one that set it
            self._watch()
            return
        # The answer may lie there unread when it was this process that was stopped or busy.
        self._read()
        if not self._answer.done():
            self.kill(f"gave no answer in {self._patience_s:g} s")
            self._fail(self._blame)

    def _read(self) -> None:
        """Takes in what lies in the socket: an answer, or its end."""
        if self.lost.is_set():
            return
        try:
            packet = self._channel.recv(wire.MESSAGE_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        try:
            message = Message.unpack(packet) if packet else None
        except ValueError as problem:
            self.kill(f"sent {problem}")
            self._fail(self._blame)
            return
        if message is None:
            self._closed_by_worker()
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(WorkerLost(reason))

    async def _buried(self) -> str:
        """Returns what the burial found. Cancelling the caller does not cancel the burial."""
        assert self._burial is not None
        return await asyncio.shield(self._burial)

    async def _bury(self, grace_s: float) -> str:
        """Waits for the end of the process and says what it died of."""
        end = await bury(self._process, self._words, grace_s, self._limits)
        cause = (end.cause if self._blame == SOCKET_CLOSED else self._blame) + end.words
        self._fail(cause)
        return cause
