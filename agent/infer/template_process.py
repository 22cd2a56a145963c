"""One template process as the device sees it: start, have workers forked, end. It is never revived.

Decided here: a template that does not answer in time and a socket that closes both make it *lost*; it is killed at
once and nothing more is asked of it. Workers that live go on without it: that one has ended is seen by its pidfd, and
only how it ended nobody can say then.
Failure: whoever wanted a worker gets WorkerLost, with what the template died of.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agent.infer import wire
from agent.infer.ending import LastWords, bury
from agent.infer.records import WorkerLost
from agent.infer.wire import Message, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.infer.limits import Limits
    from agent.infer.settings import Settings

__all__ = ["Forked", "TemplateProcess"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Forked:
    """A worker's process, which the template has forked: an `ending.Mortal`.

    Args:
        pid: Its process id.
        pidfd: Stands for it whatever becomes of that number; is closed at its end.
        limits: Of the template's patience.
    """

    def __init__(self, pid: int, pidfd: int, limits: Limits) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._status: asyncio.Future[int | None] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._note_end)

    def kill(self) -> None:
        """Ends it at once."""
        if not self._ended.is_set():
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> int | None:
        """Waits for its end; its exit status, None where the template does not tell it."""
        await self._ended.wait()
        done, _ = await asyncio.wait({self._status}, timeout=self._limits.template_timeout_s)
        return self._status.result() if done else None

    def tell(self, status: int | None) -> None:
        """This is its exit status; None: nobody knows."""
        if not self._status.done():
            self._status.set_result(status)

    def _note_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        # Without its template it falls to process 1, which a device in a container is.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        os.close(self._pidfd)
        self._ended.set()


class TemplateProcess:
    """A started template. Made by `start`, ended by `close`.

    Attributes:
        pid: Its process id.
        lost: Whether it can no longer be asked.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        device: socket.socket,
        words: LastWords,
        limits: Limits,
    ) -> None:
        self.pid = process.pid
        self.lost = False
        self._process = process
        self._device = device
        self._words = words
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._asked: dict[int, asyncio.Future[Forked]] = {}
        """By number of the request."""
        self._workers: dict[int, Forked] = {}
        self._closing = False
        self._burial: asyncio.Task[str] | None = None
        self._loop.add_reader(device, self._read)

    @classmethod
    async def start(cls, limits: Limits) -> TemplateProcess:
        """Starts one, and returns when it can fork. Raises WorkerLost, OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        with theirs, LastWords(limits.last_words_bytes_max) as words:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # the folder that someone happened to start the device in holds no modules
                    "-m",
                    "agent.infer.template",
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=words.pipe,
                    pass_fds=(theirs.fileno(),),
                    env=_environment(),
                )
            except BaseException:
                ours.close()
                raise
        template = cls(process, ours, words, limits)
        try:
            await template._answered(template._ready, limits.start_timeout_s)
        except BaseException:
            await template.close()
            raise
        return template

    async def fork(self, settings: Settings, descriptors: Sequence[int], limits: Limits) -> Forked:
        """Returns a new worker, with its socket, the shared memory and its standard error as descriptors.

        They may be closed here then. Raises WorkerLost.
        """
        self._number = (self._number + 1) % 2**32
        packet = Message(Verb.FORK, self._number, 0, settings.pack()).pack()
        number, forked = self._number, self._loop.create_future()
        self._asked[number] = forked
        try:
            socket.send_fds(self._device, [packet], descriptors)
            return await self._answered(forked, limits.template_timeout_s)
        except OSError:  # it is dead and the reader was not told yet, or has read nothing for long
            self._hang_up(self._limits.stop_grace_s)
            raise WorkerLost(await self._buried()) from None
        finally:
            del self._asked[number]

    async def close(self) -> None:
        """Ends the process and waits until it is gone."""
        self._closing = True
        self._hang_up(self._limits.stop_grace_s)
        await self._buried()

    async def _answered(self, answer: asyncio.Future[T], timeout_s: float) -> T:
        """Waits for an answer of the template. Raises WorkerLost."""
        await asyncio.wait({answer}, timeout=timeout_s)
        # It may lie there unread when it was this process that was stopped or busy.
        while not answer.done() and not self.lost and self._read():
            pass
        if not answer.done() and not self.lost:
            self._hang_up(0)
            await self._buried()
            raise WorkerLost(f"was not started: its template gave no answer in {timeout_s:g} s")
        if self.lost:
            await self._buried()
        return answer.result()

    def _read(self) -> bool:
        """Takes in an answer, the end of a worker, or its own, if one lies in the socket; says whether."""
        try:
            packet, descriptors, _, _ = socket.recv_fds(
                self._device, wire.MESSAGE_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            packet, descriptors = b"", []
        if not packet:
            self._hang_up(self._limits.stop_grace_s)
            return True
        message = Message.unpack(packet)
        asked = self._asked.get(message.number)
        if message.verb is Verb.READY:
            self._ready.set_result(None)
        elif message.verb is Verb.ENDED:
            if message.number in self._workers:
                status = os.waitstatus_to_exitcode(message.value)
                self._workers.pop(message.number).tell(status)
        elif descriptors:
            worker = Forked(message.value, descriptors[0], self._limits)
            self._workers[message.number] = worker
            if asked is not None and not asked.done():
                asked.set_result(worker)
        elif asked is not None and not asked.done():
            reason = message.text or "there is no descriptor left"
            asked.set_exception(WorkerLost(f"was not started: {reason}"))
        return True

    def _hang_up(self, grace_s: float) -> None:
        """Closes the socket, which an idle template takes as its end, and sees to the rest."""
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._device)
        self._device.close()
        for worker in self._workers.values():
            worker.tell(None)
        self._burial = asyncio.create_task(self._bury(grace_s))

    async def _buried(self) -> str:
        """Why there is no worker. Cancelling the caller does not cancel the burial."""
        assert self._burial is not None
        return await asyncio.shield(self._burial)

    async def _bury(self, grace_s: float) -> str:
        """Waits for the end of the process, and tells those who wait for a worker."""
        end = await bury(self._process, self._words, grace_s, self._limits)
        reason = f"was not started: its template {end.cause}{end.words}"
        if not self._closing:
            logger.warning("template of the inference workers lost: %s%s", end.cause, end.words)
        answers: list[asyncio.Future[Any]] = [self._ready, *self._asked.values()]
        for answer in answers:
            if not answer.done():
                answer.set_exception(WorkerLost(reason))
                answer.exception()  # whoever wanted it may have gone
        return reason


def _environment() -> dict[str, str]:
    """The template's environment: this package importable, and no thread pool for numpy's algebra."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
        "OPENBLAS_NUM_THREADS": "1",
    }
