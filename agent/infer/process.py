"""One worker process as the device sees it: start, ask, watch, end. It is never revived.

Decided here: an answer that does not come in time and a socket that closes both make the worker
*lost*. A lost worker is killed at once, the request under way fails with WorkerLost, and every
later one too; starting another is the client's business. So is a request that is cancelled: the
worker may still be writing its answer into the shared memory, and only killing it ends that.
Assumed: the caller never has more than one request under way.
Failure: a process that even SIGKILL does not end (stuck in a driver) is logged and left alone.
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
from typing import TYPE_CHECKING, Final

from agent.infer import wire
from agent.infer.backend import InferenceError, RuntimeUnavailable
from agent.infer.edgetpu import EdgeTpu
from agent.infer.kinds import Kind
from agent.infer.wire import Message, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.infer.limits import Limits

__all__ = ["ANY_EDGE_TPU", "PROCESSOR", "WorkerLost", "WorkerProcess"]

logger = logging.getLogger(__name__)

SOCKET_CLOSED: Final = "closed its socket"

PROCESSOR: Final = (Kind.TFLITE, Kind.ONNX)
"""The kinds that a worker without an accelerator runs."""
ANY_EDGE_TPU: Final = EdgeTpu()


class WorkerLost(InferenceError):
    """The worker ended or had to be ended; `reason` says how."""


class WorkerProcess:
    """A started worker. Made by `start`, ended by `close`.

    Attributes:
        runtime: The runtime that the worker found.
        pid: Its process id.
        lost: Set once it can no longer be asked.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, channel: socket.socket, limits: Limits
    ) -> None:
        self.runtime = ""
        self.pid = process.pid
        self.lost = asyncio.Event()
        self._process = process
        self._channel = channel
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._answer: asyncio.Future[Message] | None = None
        self._blame = ""
        self._last_words = b""
        self._listening = asyncio.create_task(self._listen_to_stderr())
        self._burial: asyncio.Task[str] | None = None
        self._loop.add_reader(channel, self._read)

    @classmethod
    async def start(
        cls,
        memory: int,
        num_threads: int,
        limits: Limits,
        kinds: Sequence[Kind] = PROCESSOR,
        edge_tpu: EdgeTpu = ANY_EDGE_TPU,
    ) -> WorkerProcess:
        """Starts a process for these kinds of models on the shared memory of that descriptor.

        It is ready when it has a runtime for one of them.

        Raises WorkerLost, RuntimeUnavailable.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        numbers = [theirs.fileno(), memory, num_threads, limits.tensor_bytes_max]
        numbers += [round(limits.load_timeout_s * 1000), round(limits.invoke_timeout_s * 1000)]
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the folder that someone happened to start the device in holds no modules
                "-m",
                "agent.infer.worker",
                *map(str, numbers),
                ",".join(kinds),
                *edge_tpu,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(), memory),
                env=_environment(),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = cls(process, ours, limits)
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
            self._end_process()
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

    def _end_process(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _hang_up(self, blame: str, grace_s: float) -> None:
        """Closes the socket, which an idle worker takes as its end, and sees to the rest."""
        self._blame = blame
        self.lost.set()
        self._loop.remove_reader(self._channel)
        self._channel.close()
        self._burial = asyncio.create_task(self._bury(grace_s))

    async def _wait(self, timeout_s: float) -> Message:
        """Waits for the next message. Raises WorkerLost."""
        self._answer = self._loop.create_future()
        watchdog = self._loop.call_later(timeout_s, self._expire, timeout_s)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.kill("was cancelled")
            raise
        finally:
            watchdog.cancel()
            self._answer = None

    def _expire(self, timeout_s: float) -> None:
        """The watchdog: no answer in time."""
        # The answer may lie there unread when it was this process that was stopped or busy.
        self._read()
        if self._answer is not None and not self._answer.done():
            self.kill(f"gave no answer in {timeout_s:g} s")
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
        if grace_s > 0 and not await self._ended_within(grace_s):
            self._end_process()
        cause = self._blame
        if not await self._ended_within(self._limits.kill_timeout_s):
            logger.error("inference worker %d does not end, SIGKILL or not", self.pid)
        elif cause == SOCKET_CLOSED:
            cause = _describe(self._process.returncode)
        words = self._last_words.decode("utf-8", "replace").splitlines()
        # What TFLite greets with says nothing of a death.
        telling = [line for line in words if line.strip() and not line.startswith("INFO:")]
        if telling:
            cause += f" ({telling[-1].strip()[:200]})"
        self._fail(cause)
        return cause

    async def _ended_within(self, timeout_s: float) -> bool:
        """Waits for the process and for the rest of what it wrote."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
                await asyncio.shield(self._listening)
        except TimeoutError:
            return False
        return True

    async def _listen_to_stderr(self) -> None:
        """Keeps the end of what the runtime writes to standard error."""
        assert self._process.stderr is not None
        while words := await self._process.stderr.read(4096):
            self._last_words = (self._last_words + words)[-self._limits.last_words_bytes_max :]
            logger.debug("inference worker %d: %r", self.pid, words)


def _environment() -> dict[str, str]:
    """The worker's environment: this package importable, and no thread pool for numpy's algebra."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
        "OPENBLAS_NUM_THREADS": "1",
    }


def _describe(status: int | None) -> str:
    """Says how a process ended, from its exit status as subprocess reports it."""
    if status is not None and status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
