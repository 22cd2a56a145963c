"""The template of which workers are forked: what it leaves to them, what it tells of them, and life without it."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from processes import (
    WAIT_S,
    children,
    descriptors,
    on_every_start,
    threads,
    wait_for_end,
    wait_until,
)

from agent.infer import wire
from agent.infer.client import InferenceClient
from agent.infer.edgetpu import EdgeTpu
from agent.infer.kinds import Kind
from agent.infer.limits import Limits
from agent.infer.process import WorkerProcess
from agent.infer.records import WorkerLost
from agent.infer.settings import Settings
from agent.infer.shared_template import SharedTemplate
from agent.infer.standby import StandbyClient

ROOT = Path(__file__).parents[2]
SETTINGS = Settings((Kind.TFLITE,), 1, 1024, 5, 5, EdgeTpu())
X = tiny_models.features(1.0, -2.0, 3.0, 0.5)
DENSE = tiny_models.read("dense")


CRASH = """
import os, signal
from agent.infer import tflite
def crash(*_):
    os.write(2, b"the board is on fire\\n")
    os.kill(os.getpid(), signal.SIGSEGV)
tflite.TfliteBackend.invoke = crash
"""
REFUSE = """
import os
fork = os.fork
def refused():
    if os.path.exists({full!r}):
        raise OSError(11, "Resource temporarily unavailable")
    return fork()
os.fork = refused
"""


async def load(client):
    await client.load(DENSE, tiny_models.sha256(DENSE))


async def answers(client):
    np.testing.assert_allclose((await client.infer(X)).output, tiny_models.dense(X), rtol=1e-6)


@asynccontextmanager
async def held():
    """Starts workers from the loop's template."""
    template = SharedTemplate.hold()

    async def fork():
        return await WorkerProcess.start(template, memory.fileno(), SETTINGS, Limits())

    try:
        with wire.nameless_file() as memory:
            async with asyncio.timeout(WAIT_S):
                yield fork
    finally:
        await template.release()


async def forked(fork):
    """The template's process id, once it has had a worker."""
    await (await fork()).close()
    return template_pid()


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def template_pid():
    """The one template of this process."""
    (pid,) = children()
    return pid


def test_all_clients_have_one_template_which_ends_with_the_last():
    async def scenario():
        async with StandbyClient():
            template = template_pid()
            async with InferenceClient() as first, InferenceClient() as second:
                workers = [client.statistics().worker_pid for client in (first, second)]
                assert len({template, *workers}) == 3
                assert children(template) == sorted(workers)
                await load(second)
                await answers(second)
            assert children() == [template]
            assert children(template) == []
        assert children() == []

    asyncio.run(scenario())


def test_a_client_without_a_version_finds_out_that_it_can_have_workers_and_keeps_none():
    async def scenario():
        async with StandbyClient() as client:
            assert children(template_pid()) == []
            statistics = client.statistics()
            assert statistics.worker_pid is None
            assert (statistics.workers_started, statistics.workers_lost) == (1, 0)
            assert statistics.runtime in {"ai_edge_litert", "tflite_runtime"}

    asyncio.run(scenario())


def test_it_has_one_thread_and_no_descriptor_of_its_workers_ever(monkeypatch, tmp_path):
    on_every_start(monkeypatch, tmp_path, "import warnings\nwarnings.simplefilter('error')\n")

    async def scenario():
        async with held() as fork:
            first = await fork()
            pid, before = template_pid(), descriptors(template_pid())
            ours = descriptors()
            workers = [await fork() for _ in range(3)]
            assert threads(pid) == 1
            # Beside what it had, a pidfd for each.
            new = {name: what for name, what in descriptors(pid).items() if name not in before}
            assert len(new) == 3
            assert not [what for what in new.values() if "pidfd" not in what]
            sockets = {what for what in descriptors(pid).values() if "socket" in what}
            for worker in workers:
                has = descriptors(worker.pid)
                assert not [what for what in has.values() if "pidfd" in what]
                (own,) = (what for what in has.values() if "socket" in what)
                assert own not in sockets
                sockets.add(own)
                await worker.close()
            assert descriptors(pid) == before
            assert descriptors() == ours
            await first.close()

    asyncio.run(scenario())


def test_nothing_is_left_of_200_workers():
    async def scenario():
        async with held() as fork:
            pid = await forked(fork)
            gc.collect()
            before = descriptors(), descriptors(pid)
            for _ in range(50):
                started = await asyncio.gather(*(fork() for _ in range(4)))
                assert len({worker.pid for worker in started}) == 4
                await asyncio.gather(*(worker.close() for worker in started))
            gc.collect()
            assert (descriptors(), descriptors(pid)) == before
            assert children(pid) == []
            assert threads(pid) == 1
            assert children() == [pid]

    asyncio.run(scenario())


def test_a_worker_that_crashes_is_told_with_its_last_words(monkeypatch, tmp_path):
    on_every_start(monkeypatch, tmp_path, CRASH)

    async def scenario():
        async with held() as fork:
            match = r"was ended by SIGSEGV \(the board is on fire\)"
            with pytest.raises(WorkerLost, match=match):
                await fork()

    asyncio.run(scenario())


def test_a_worker_that_its_template_has_reaped_can_be_ended_still():
    async def scenario():
        async with held() as fork:
            worker = await fork()
            os.kill(worker.pid, signal.SIGKILL)
            # Without a turn of the loop, which would be told of it.
            wait_until(lambda: worker.pid not in children(template_pid()), "it is reaped")
            worker.kill("as the test says")
            assert await worker.wait_lost() == "as the test says"

    asyncio.run(scenario())


def test_workers_live_on_without_their_template_and_the_next_one_has_a_new_one():
    async def scenario():
        async with InferenceClient() as client, InferenceClient() as other:
            async with asyncio.timeout(WAIT_S):
                await load(client)
                await load(other)
                lost, worker = template_pid(), client.statistics().worker_pid
                os.kill(lost, signal.SIGKILL)
                wait_for_end(lost)
                for _ in range(20):
                    await answers(client)
                assert client.statistics().worker_pid == worker
                os.kill(worker, signal.SIGKILL)
                with pytest.raises(WorkerLost) as caught:
                    await answers(client)
                assert "its template could not say how" in caught.value.reason
                await answers(client)
                assert template_pid() != lost
                assert parent(client.statistics().worker_pid) == template_pid()
                await answers(other)
                assert other.statistics().workers_lost == 0

    asyncio.run(scenario())


def test_a_template_that_does_not_start_is_told_with_its_last_words(monkeypatch, tmp_path):
    code = "import os, sys\nprint('no such disk', file=sys.stderr, flush=True)\nos._exit(7)\n"
    on_every_start(monkeypatch, tmp_path, code)

    async def scenario():
        match = r"its template ended with status 7 \(no such disk\)"
        with pytest.raises(WorkerLost, match=match):
            await InferenceClient().start()
        with pytest.raises(WorkerLost, match=match):
            await StandbyClient().start()
        assert children() == []

    asyncio.run(scenario())


def test_a_template_that_does_not_come_up_is_not_waited_for(monkeypatch, tmp_path):
    on_every_start(monkeypatch, tmp_path, "import time\ntime.sleep(3600)\n")

    async def scenario():
        with pytest.raises(WorkerLost, match=r"its template gave no answer in 0\.2 s"):
            await InferenceClient(Limits(start_timeout_s=0.2)).start()
        assert children() == []

    asyncio.run(scenario())


def test_a_stuck_template_is_replaced():
    async def scenario():
        limits = Limits(template_timeout_s=0.2, restart_backoff_s=0.001)
        async with InferenceClient(limits) as client, asyncio.timeout(WAIT_S):
            await load(client)
            stuck = template_pid()
            os.kill(stuck, signal.SIGSTOP)
            await answers(client)
            os.kill(client.statistics().worker_pid, signal.SIGKILL)
            with pytest.raises(WorkerLost, match="its template could not say how"):
                await answers(client)
            await answers(client)
            wait_for_end(stuck)
            assert template_pid() != stuck

    asyncio.run(scenario())


def test_a_fork_that_the_kernel_refuses_is_told_and_the_template_goes_on(monkeypatch, tmp_path):
    full = tmp_path / "full"
    code = REFUSE.format(full=str(full))
    on_every_start(monkeypatch, tmp_path, code)

    async def scenario():
        async with held() as fork:
            pid = await forked(fork)
            full.touch()
            with pytest.raises(WorkerLost, match="Resource temporarily unavailable"):
                await fork()
            full.unlink()
            await (await fork()).close()
            assert template_pid() == pid

    asyncio.run(scenario())


def test_a_start_that_nobody_waits_for_any_more_leaves_no_worker():
    async def scenario():
        async with held() as fork:
            pid = await forked(fork)
            os.kill(pid, signal.SIGSTOP)
            starting = asyncio.create_task(fork())
            await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            os.kill(pid, signal.SIGCONT)
            await (await fork()).close()
            while children(pid):
                await asyncio.sleep(0.005)
            assert threads(pid) == 1

    asyncio.run(scenario())


def test_orphans_are_reaped_where_they_fall_to_the_device():
    """As they do in a container, in which it is process 1."""
    program = """
import asyncio, ctypes, os, signal
from processes import children, wait_for_end
from agent.infer.client import InferenceClient
async def main():
    async with InferenceClient() as client:
        (template,), worker = children(), client.statistics().worker_pid
        os.kill(template, signal.SIGKILL)
        wait_for_end(template)
        os.kill(worker, signal.SIGKILL)
        while client.statistics().workers_started < 2:
            await asyncio.sleep(0.005)
    assert not children(), children()
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
asyncio.run(main())
"""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        timeout=WAIT_S,
        check=True,
    )


def test_template_and_workers_end_when_their_device_is_killed():
    program = """
import asyncio
from agent.infer.client import InferenceClient
async def main():
    async with InferenceClient() as one, InferenceClient() as two:
        print(one.statistics().worker_pid, two.statistics().worker_pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as device:
        workers = list(map(int, device.stdout.readline().split()))
        template = parent(workers[0])
        assert parent(template) == device.pid
        device.kill()
        for pid in (template, *workers):
            wait_for_end(pid)
