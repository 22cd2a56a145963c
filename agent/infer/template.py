"""The template: a process that has imported what a worker needs, and forks into one whenever one is wanted.

Why: starting Python and importing numpy is nearly all that starting a worker costs (figures: docs/bench.md, `infer`),
and a fork of a process that has done both shares their memory with it.

Decided here: one fork per request, with the descriptors that came along; the answer carries a pidfd, opened before
anyone can reap the worker, so that the device never signals a number that has become another process's. The template
reaps its workers and tells how each ended. It runs no model, and imports only what starts no thread, since a fork
takes no thread along, but whatever lock it held: LiteRT starts none, ONNX Runtime does (looked up in /proc/self/task;
a test holds it), so that is imported by the worker. What was imported is frozen, so that no collection writes to pages
that are shared.
Not multiprocessing's forkserver: it would import the device's own main module, keep a tracker process beside itself,
and tell neither pidfd nor last words.

Failure: a fork that the kernel refuses is answered with its reason. The template ends when the device's socket
does; the workers that it leaves have sockets of their own and end by those. Signals to the whole group are left to
the device. The device starts it by `python -m agent.infer.template` (template_process.py).
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Final, NoReturn

from agent.infer import tflite, wire, worker
from agent.infer.runtimes import find_runtime
from agent.infer.settings import Settings
from agent.infer.wire import Message, Verb

__all__ = ["Template", "main"]

OOM_SCORE: Final = 500
DESCRIPTORS: Final = 3
"""That come with a request: the worker's socket, the shared memory, its standard error."""


class Template:
    """Forks workers for the device at the other end of a socket."""

    def __init__(self, device: socket.socket) -> None:
        self._device = device
        self._poll = select.poll()
        self._poll.register(device, select.POLLIN)
        self._workers: dict[int, tuple[int, int]] = {}
        """By pidfd: the number of the request, and the process id."""

    def serve(self) -> None:
        """Forks and reaps until the device is gone."""
        self._device.send(Message(Verb.READY).pack())
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._workers:
                    self._reap(descriptor)
                elif not self._answer():
                    return

    def _answer(self) -> bool:
        """Takes one request; False: there will be no more."""
        packet, descriptors, _, _ = socket.recv_fds(
            self._device, wire.MESSAGE_BYTES_MAX, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not packet:
            return False
        request = Message.unpack(packet)
        try:
            pid, pidfd = self._fork(Settings.unpack(request.tail), descriptors)
        except (OSError, ValueError) as problem:
            self._device.send(Message(Verb.FAILED, request.number, 0, str(problem).encode()).pack())
            return True
        finally:
            # Who held them any longer would keep a worker alive whose device is gone.
            for descriptor in descriptors:
                os.close(descriptor)
        self._workers[pidfd] = request.number, pid
        self._poll.register(pidfd, select.POLLIN)
        socket.send_fds(self._device, [Message(Verb.FORKED, request.number, pid).pack()], [pidfd])
        return True

    def _fork(self, settings: Settings, descriptors: list[int]) -> tuple[int, int]:
        """Returns the worker's process id and a pidfd. Raises OSError, ValueError."""
        channel, memory, errors = descriptors
        pid = os.fork()
        if pid == 0:
            self._become_worker(settings, channel, memory, errors)
        try:
            return pid, os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def _become_worker(
        self, settings: Settings, channel: int, memory: int, errors: int
    ) -> NoReturn:
        """Never returns into what the template was doing."""
        status = 1
        try:
            os.dup2(errors, sys.stderr.fileno())
            os.close(errors)
            self._device.close()
            for pidfd in self._workers:
                os.close(pidfd)
            worker.run(settings, channel, memory, find_runtime)
            status = 0
        except BaseException:  # noqa: BLE001 - told on standard error, which the device reads
            traceback.print_exc()
        finally:
            os._exit(status)

    def _reap(self, pidfd: int) -> None:
        """Takes the end of a worker, and tells of it."""
        number, pid = self._workers.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._device.send(Message(Verb.ENDED, number, status).pack())


def main() -> None:
    """Serves the device on the socket that the command line names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # When memory runs out the workers go, and this with them, which are started again, rather than the broker.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    tflite.preload()
    gc.collect()
    gc.freeze()
    # The device is gone: it closed the socket before it read what was said.
    with (
        socket.socket(fileno=int(sys.argv[1])) as device,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
    ):
        Template(device).serve()


if __name__ == "__main__":
    main()
