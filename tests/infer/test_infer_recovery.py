"""What happens when a worker dies, hangs, is cancelled, or loses its device."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from processes import (
    WAIT_S,
    children,
    descriptors,
    on_every_fork,
    on_every_start,
    wait_for_end,
)

from agent.infer import wire
from agent.infer.backend import ModelRejected, RuntimeUnavailable
from agent.infer.client import InferenceClient
from agent.infer.edgetpu import EdgeTpu
from agent.infer.kinds import Kind
from agent.infer.limits import Limits
from agent.infer.process import WorkerProcess
from agent.infer.records import WorkerLost
from agent.infer.settings import Settings
from agent.infer.shared_template import SharedTemplate
from agent.infer.wire import Message, Verb

ROOT = Path(__file__).parents[2]
X = tiny_models.features(1.0, -2.0, 3.0, 0.5)
Y = tiny_models.dense(X)
DENSE = tiny_models.read("dense")
OTHER = tiny_models.read("dense_other")
SETTINGS = Settings((Kind.TFLITE,), 1, 1024, 5, 5, EdgeTpu())


async def load(client, model=DENSE):
    return await client.load(model, tiny_models.sha256(model))


async def answers(client):
    np.testing.assert_allclose((await client.infer(X)).output, Y, rtol=1e-6)


def test_killed_mid_stream_recovers_with_the_same_model():
    async def scenario():
        async with InferenceClient() as client, asyncio.timeout(WAIT_S):
            await load(client)
            lost = []
            for turn in range(60):
                if turn in {20, 40}:
                    os.kill(client.statistics().worker_pid, signal.SIGKILL)
                try:
                    await answers(client)
                except WorkerLost as problem:
                    lost.append(problem.reason)
            # Each kill costs the one inference that met it.
            assert len(lost) == 2
            assert all("SIGKILL" in reason for reason in lost)
            statistics = client.statistics()
            assert statistics.inferences == 58
            assert statistics.inferences_failed == 2
            assert (statistics.workers_lost, statistics.workers_started) == (2, 3)
            assert "SIGKILL" in statistics.last_loss
            assert statistics.models_loaded == 1

    asyncio.run(scenario())


def test_a_signal_without_a_name_is_an_end_like_any_other():
    nameless = signal.SIGRTMIN + 6

    async def scenario():
        async with InferenceClient() as client, asyncio.timeout(WAIT_S):
            await load(client)
            os.kill(client.statistics().worker_pid, nameless)
            with pytest.raises(WorkerLost, match=f"was ended by signal {nameless}"):
                await answers(client)
            await answers(client)

    asyncio.run(scenario())


def test_supervision_that_ends_by_a_defect_is_told_and_stops_in_order(monkeypatch, caplog):
    async def scenario():
        async with InferenceClient() as client, asyncio.timeout(WAIT_S):
            await load(client)

            def defective():
                raise ZeroDivisionError("a defect")

            monkeypatch.setattr(client, "_pause_s", defective)
            os.kill(client.statistics().worker_pid, signal.SIGKILL)
            with pytest.raises(WorkerLost):
                await answers(client)
            await asyncio.wait({client._supervision})
        assert client._memory.closed

    asyncio.run(scenario())
    assert "supervision of an inference worker has failed" in caplog.text


def test_stuck_worker_is_replaced():
    async def scenario():
        async with InferenceClient(Limits(invoke_timeout_s=0.2)) as client, asyncio.timeout(WAIT_S):
            await load(client)
            stuck = client.statistics().worker_pid
            os.kill(stuck, signal.SIGSTOP)
            with pytest.raises(WorkerLost, match=r"gave no answer in 0\.2 s"):
                await client.infer(X)
            wait_for_end(stuck)
            # Not `answers`: on a busy machine an honest inference may meet that short limit too.
            client._limits = Limits()
            await answers(client)
            assert client.statistics().worker_pid != stuck

    asyncio.run(scenario())


def test_worker_stuck_over_a_new_model_comes_back_with_the_old_one():
    async def scenario():
        async with InferenceClient() as client, asyncio.timeout(WAIT_S):
            await load(client)
            os.kill(client.statistics().worker_pid, signal.SIGSTOP)
            client._limits = Limits(load_timeout_s=0.2)
            with pytest.raises(ModelRejected, match="gave no answer"):
                await load(client, OTHER)
            client._limits = Limits()
            await answers(client)
            assert client.statistics().models_rejected == 1

    asyncio.run(scenario())


def test_cancelled_inference_does_not_disturb_the_next():
    async def scenario():
        async with InferenceClient() as client, asyncio.timeout(WAIT_S):
            await load(client)
            os.kill(client.statistics().worker_pid, signal.SIGSTOP)
            under_way = asyncio.Event()

            def fill(into):
                into[...] = 7.0
                under_way.set()

            task = asyncio.create_task(client.infer_filled(fill))
            await under_way.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await answers(client)
            assert client.statistics().workers_lost == 1

    asyncio.run(scenario())


def test_stop_fails_the_inference_under_way_and_leaves_no_process():
    async def scenario():
        client = InferenceClient(Limits(stop_grace_s=0.05))
        await client.start()
        await load(client)
        pid = client.statistics().worker_pid
        os.kill(pid, signal.SIGSTOP)
        under_way = asyncio.Event()

        def fill(into):
            into[...] = 7.0
            under_way.set()

        first = asyncio.create_task(client.infer_filled(fill))
        await under_way.wait()
        second = asyncio.create_task(client.infer(X))
        await client.stop()
        for task in (first, second):
            with pytest.raises(WorkerLost):
                await task
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        await client.stop()

    asyncio.run(scenario())


def test_signals_to_the_whole_group_are_left_to_the_device():
    async def scenario():
        async with InferenceClient() as client, asyncio.timeout(WAIT_S):
            await load(client)
            pid = client.statistics().worker_pid
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(pid, number)
                await answers(client)
            assert client.statistics().workers_lost == 0
            assert oom_score(pid) > 0

    def oom_score(pid):
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    asyncio.run(scenario())


@pytest.mark.parametrize("busy", [False, True])
def test_worker_ends_when_its_device_is_killed(busy):
    program = """
import asyncio, os, signal, sys, tiny_models
from agent.infer.client import InferenceClient
async def main(busy):
    async with InferenceClient() as client:
        model = tiny_models.read("dense")
        await client.load(model, tiny_models.sha256(model))
        print(client.statistics().worker_pid, flush=True)
        while busy:
            await client.infer(tiny_models.features(1, 2, 3, 4))
        await asyncio.Event().wait()
asyncio.run(main(sys.argv[1] == "True"))
"""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    with subprocess.Popen(
        [sys.executable, "-c", program, str(busy)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as device:
        worker = int(device.stdout.readline())
        os.kill(worker, 0)
        device.kill()
        wait_for_end(worker)


def test_worker_without_a_device_does_not_stay_stuck_in_the_runtime():
    program = """
import sys, time
from agent.infer import worker
from agent.infer.backend import Runtime
from agent.infer.settings import Settings
def find(kind, edge_tpu):
    return Runtime("stuck", lambda model, num_threads: time.sleep(3600))
worker.run(Settings.unpack(sys.argv[1].encode()), int(sys.argv[2]), int(sys.argv[3]), find)
"""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, wire.nameless_file() as memory:
        settings = SETTINGS._replace(load_timeout_s=0.001).pack().decode()
        numbers = theirs.fileno(), memory.fileno()
        with subprocess.Popen(
            [sys.executable, "-c", program, settings, *map(str, numbers)],
            pass_fds=numbers,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process:
            assert Message.unpack(ours.recv(wire.MESSAGE_BYTES_MAX)).text == "stuck"
            socket.send_fds(ours, [Message(Verb.LOAD, 1, 0, b"tflite").pack()], [memory.fileno()])
            ours.close()
            assert process.wait(WAIT_S) == -signal.SIGALRM


def test_worker_that_dies_at_its_start_is_told_with_its_last_words(monkeypatch, tmp_path):
    # What it says before it has a standard error of its own goes to the template's.
    sight = "from agent.infer import worker\ndef run(*_):\n    raise RuntimeError('no such board')\nworker.run = run\n"
    on_every_fork(monkeypatch, tmp_path, sight)

    async def scenario():
        match = r"ended with status 1 \(RuntimeError: no such board\)"
        with pytest.raises(WorkerLost, match=match):
            await InferenceClient().start()

    asyncio.run(scenario())


def test_no_runtime_is_told_at_the_start(monkeypatch, tmp_path):
    code = "import sys\nsys.modules.update(ai_edge_litert=None, tflite_runtime=None, onnxruntime=None)\n"
    on_every_start(monkeypatch, tmp_path, code)

    async def scenario():
        with pytest.raises(
            RuntimeUnavailable,
            match=r"no TFLite runtime works here.*ONNX Runtime does not work here",
        ):
            await InferenceClient().start()

    asyncio.run(scenario())


def test_restarts_that_fail_are_repeated_until_one_works(monkeypatch, tmp_path):
    log = tmp_path / "starts"
    code = f"""
starts = os.open({str(log)!r}, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
os.write(starts, b".")
os._exit(7) if os.fstat(starts).st_size in (2, 3) else os.close(starts)
"""
    on_every_fork(monkeypatch, tmp_path, code)

    async def scenario():
        limits = Limits(restart_backoff_s=0.001, recovery_wait_s=WAIT_S)
        async with InferenceClient(limits) as client, asyncio.timeout(WAIT_S):
            await load(client)
            os.kill(client.statistics().worker_pid, signal.SIGKILL)
            with pytest.raises(WorkerLost):
                await answers(client)
            await answers(client)
            statistics = client.statistics()
            assert (statistics.workers_lost, statistics.workers_started) == (3, 2)
            assert statistics.last_loss == "ended with status 7"

    asyncio.run(scenario())
    assert log.stat().st_size == 4


def test_caller_does_not_wait_for_ever_for_a_worker(monkeypatch, tmp_path):
    dead = tmp_path / "dead"
    on_every_fork(monkeypatch, tmp_path, f"if os.path.exists({str(dead)!r}):\n    os._exit(7)\n")

    async def scenario():
        limits = Limits(restart_backoff_s=0.001, recovery_wait_s=0.3)
        async with InferenceClient(limits) as client, asyncio.timeout(WAIT_S):
            await load(client)
            dead.touch()
            os.kill(client.statistics().worker_pid, signal.SIGKILL)
            with pytest.raises(WorkerLost):
                await answers(client)
            with pytest.raises(WorkerLost, match=r"was gone for 0\.3 s: ended with status 7"):
                await answers(client)

    asyncio.run(scenario())


def test_pauses_between_restarts_grow_to_their_limit():
    async def scenario():
        client = InferenceClient(Limits(restart_backoff_s=1, restart_backoff_max_s=5))
        pauses = []
        for _ in range(6):
            client._note_loss("test")
            pauses.append(client._pause_s())
        assert pauses == [0, 1, 2, 4, 5, 5]

    asyncio.run(scenario())


def test_worker_that_answers_nonsense_is_lost():
    async def scenario():
        with wire.nameless_file() as memory:
            template = SharedTemplate.hold()
            worker = await WorkerProcess.start(template, memory.fileno(), SETTINGS, Limits())
            os.kill(worker.pid, signal.SIGSTOP)
            asking = asyncio.create_task(worker.ask(Verb.INVOKE, WAIT_S))
            await asyncio.sleep(0)  # one turn, in which it asks
            worker._number = 41  # what the worker answers is then another request's
            os.kill(worker.pid, signal.SIGCONT)
            with pytest.raises(WorkerLost, match="1 instead of 41"):
                await asking
            with pytest.raises(WorkerLost, match="1 instead of 41"):
                await worker.ask(Verb.INVOKE, WAIT_S)
            assert "1 instead of 41" in await worker.wait_lost()
            await template.release()

    asyncio.run(scenario())


def test_each_request_has_its_own_time():
    """Though one watchdog looks after all: one that is set later is waited for, and one that ends sooner is not."""

    async def scenario():
        with wire.nameless_file() as memory:
            template = SharedTemplate.hold()
            for first_s, second_s in ((1.0, 1.2), (WAIT_S, 0.2)):
                worker = await WorkerProcess.start(template, memory.fileno(), SETTINGS, Limits())
                assert (await worker.ask(Verb.INVOKE, first_s)).verb is Verb.FAILED
                os.kill(worker.pid, signal.SIGSTOP)
                with pytest.raises(WorkerLost, match=rf"gave no answer in {second_s:g} s"):
                    await worker.ask(Verb.INVOKE, second_s)
                await worker.close()
            await template.release()

    asyncio.run(scenario())


def test_nothing_is_left_behind():
    async def scenario():
        for _ in range(3):
            async with InferenceClient() as client, asyncio.timeout(WAIT_S):
                await load(client)
                await load(client, OTHER)
                await load(client)
                with pytest.raises(ModelRejected):
                    await load(client, DENSE[:240])
                await answers(client)
                os.kill(client.statistics().worker_pid, signal.SIGKILL)
                with pytest.raises(WorkerLost):
                    await answers(client)
                await answers(client)

    def held():
        gc.collect()
        return sorted(descriptors()), children()

    before = held()
    asyncio.run(scenario())
    assert held() == before
