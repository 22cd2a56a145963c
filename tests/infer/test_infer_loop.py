"""The inference loop with a client that does what the test says, and one test with a real one."""

import asyncio
import logging

import numpy as np
import pytest
import tiny_models

from agent.infer.backend import TensorInfo
from agent.infer.client import InferenceClient
from agent.infer.limits import DEADLINE_MS, STATE_AGE_MAX_MS, LoopLimits
from agent.infer.loop import Filled, InferenceLoop
from agent.infer.records import Inference, InputRefused, ModelInfo, NoModel, WorkerLost

MODEL = ModelInfo("00", 1, TensorInfo((1, 1), "float32"), TensorInfo((1, 1), "float32"))


class ScriptedClient:
    """Doubles its input. Before and after `fill` it does what the test put there."""

    def __init__(self):
        self.before = self.after = self.nothing

    async def nothing(self):
        pass

    async def infer_filled(self, fill):
        await self.before()
        into = np.zeros((1, 1), np.float32)
        filled = fill(into)
        await self.after()
        return filled, Inference(into * 2, 7, MODEL)


class Bench:
    """A loop whose readings are (captured_ns, value) and whose clock stands until it is set."""

    def __init__(self, client, limits=None):
        self.now_ns = 0
        self.state_age_ns = 5
        self.decisions = []
        self.loop = InferenceLoop(
            client, self.fill, self.decide, limits=limits, clock=lambda: self.now_ns
        )

    def fill(self, reading, into):
        captured_ns, value = reading
        into[...] = value
        return Filled(captured_ns, self.state_age_ns)

    def decide(self, decision):
        self.decisions.append(decision)
        self.loop.stop_nowait()

    @property
    def values(self):
        return [decision.output.item() for decision in self.decisions]


def run(bench):
    async def bounded():
        async with asyncio.timeout(20):
            await bench.loop.run()

    asyncio.run(bounded())


def test_newest_reading_wins():
    bench = Bench(ScriptedClient())
    for value in (1, 2, 3):
        bench.loop.submit_nowait((0, value))
    run(bench)
    assert bench.values == [6.0]
    statistics = bench.loop.statistics()
    assert (statistics.submitted, statistics.superseded, statistics.decided) == (3, 2, 1)


def test_reading_that_comes_while_waiting_for_the_worker_is_the_one_used():
    client = ScriptedClient()
    bench = Bench(client)

    async def another_comes():
        bench.loop.submit_nowait((0, 9))

    client.before = another_comes
    bench.loop.submit_nowait((0, 1))
    run(bench)
    assert bench.values == [18.0]
    assert bench.loop.statistics().superseded == 1


def test_reading_that_comes_during_an_inference_is_decided_next():
    client = ScriptedClient()
    bench = Bench(client)

    async def another_comes():
        client.after = client.nothing
        bench.loop.submit_nowait((0, 9))

    def decide(decision):
        bench.decisions.append(decision)
        if len(bench.decisions) == 2:
            bench.loop.stop_nowait()

    bench.loop = InferenceLoop(client, bench.fill, decide, clock=lambda: 0)
    client.after = another_comes
    bench.loop.submit_nowait((0, 1))
    run(bench)
    assert bench.values == [2.0, 18.0]
    assert bench.loop.statistics().superseded == 0


def test_decision_tells_latency_and_age_of_state():
    client = ScriptedClient()
    bench = Bench(client)

    async def time_passes():
        bench.now_ns = 1_250

    client.after = time_passes
    bench.loop.submit_nowait((1_000, 1))
    run(bench)
    (decision,) = bench.decisions
    assert decision.captured_ns == 1_000
    assert decision.latency_ns == 250
    assert decision.state_age_ns == 5
    assert decision.invoke_ns == 7
    assert decision.model is MODEL


@pytest.mark.parametrize("error", [WorkerLost("died"), InputRefused("NaN"), NoModel("none")])
def test_failed_inference_costs_one_decision_and_is_logged_once(error, caplog):
    client = ScriptedClient()
    bench = Bench(client)
    attempts = []

    async def fail_twice():
        attempts.append(None)
        if len(attempts) < 3:
            bench.loop.submit_nowait((0, len(attempts) * 10))
            raise error

    client.after = fail_twice
    bench.loop.submit_nowait((0, 1))
    with caplog.at_level(logging.WARNING, "agent.infer.loop"):
        run(bench)
    assert bench.values == [40.0]
    assert bench.loop.statistics().failed == 2
    assert bench.loop.statistics().last_failure == f"{type(error).__name__}: {error.reason}"
    assert len(caplog.records) == 1


def test_reading_that_was_not_used_is_superseded_by_the_next():
    client = ScriptedClient()
    bench = Bench(client)

    async def refuse_once():
        client.before = client.nothing
        asyncio.get_running_loop().call_soon(bench.loop.submit_nowait, (0, 2))
        raise NoModel("none yet")

    client.before = refuse_once
    bench.loop.submit_nowait((0, 1))
    run(bench)
    assert bench.values == [4.0]
    statistics = bench.loop.statistics()
    assert (statistics.submitted, statistics.superseded, statistics.failed) == (2, 1, 1)


MS = 1_000_000


@pytest.mark.parametrize(
    ("age_ns", "decided", "late"), [(7 * MS, [2.0], 0), (7 * MS + 1, [4.0], 1)]
)
def test_reading_that_is_older_than_its_deadline_is_not_inferred(age_ns, decided, late):
    client = ScriptedClient()
    bench = Bench(client, LoopLimits(deadline_ms=7))

    async def time_passes():
        client.before = client.nothing
        bench.now_ns = age_ns
        asyncio.get_running_loop().call_soon(bench.loop.submit_nowait, (age_ns, 2))

    client.before = time_passes  # another has its turn first
    bench.loop.submit_nowait((0, 1))
    run(bench)
    assert bench.values == decided
    statistics = bench.loop.statistics()
    assert (statistics.late, statistics.failed) == (late, 0)
    assert ("older than 7 ms" in statistics.last_failure) == (late == 1)


@pytest.mark.parametrize(
    ("age_ns", "decided", "stale"), [(9 * MS, [2.0], 0), (9 * MS + 1, [4.0], 2)]
)
def test_nothing_is_decided_on_state_that_is_too_old(age_ns, decided, stale, caplog):
    client = ScriptedClient()
    bench = Bench(client, LoopLimits(state_age_max_ms=9))
    bench.state_age_ns = age_ns

    async def news_come_later():
        if bench.loop.statistics().stale == 2:
            bench.state_age_ns = 0
        asyncio.get_running_loop().call_soon(bench.loop.submit_nowait, (0, 2))

    client.before = news_come_later
    bench.loop.submit_nowait((0, 1))
    with caplog.at_level(logging.WARNING, "agent.infer.loop"):
        run(bench)
    assert bench.values == decided
    statistics = bench.loop.statistics()
    assert (statistics.stale, statistics.failed) == (stale, 0)
    assert len(caplog.records) == (1 if stale else 0)  # once while it goes on


def test_without_a_word_the_limits_are_those_of_the_device():
    for client_age, field in ((DEADLINE_MS, "late"), (STATE_AGE_MAX_MS, "stale")):
        bench = Bench(ScriptedClient())
        if field == "late":
            bench.now_ns = client_age * MS + 1
        else:
            bench.state_age_ns = client_age * MS + 1
        bench.loop.submit_nowait((0, 1))

        async def one_attempt(bench=bench, field=field):
            running = asyncio.create_task(bench.loop.run())
            async with asyncio.timeout(20):
                while not getattr(bench.loop.statistics(), field):
                    await asyncio.sleep(0)
            bench.loop.stop_nowait()
            await running

        asyncio.run(one_attempt())
        assert bench.values == []


class FailingOver(ScriptedClient):
    """Its first worker fails when it has the features, and another takes the same call over."""

    async def infer_filled(self, fill):
        fill(np.zeros((1, 1), np.float32))
        await self.after()
        return await super().infer_filled(fill)


def test_the_worker_that_takes_over_gets_the_same_reading():
    bench = Bench(FailingOver())
    bench.loop.submit_nowait((0, 3))
    run(bench)
    assert bench.values == [6.0]
    assert bench.loop.statistics().superseded == 0


def test_the_worker_that_takes_over_gets_a_newer_reading_if_one_came():
    client = FailingOver()
    bench = Bench(client)

    async def another_comes():
        client.after = client.nothing
        bench.loop.submit_nowait((0, 4))

    client.after = another_comes
    bench.loop.submit_nowait((0, 3))
    run(bench)
    assert bench.values == [8.0]
    statistics = bench.loop.statistics()
    assert (statistics.submitted, statistics.superseded, statistics.decided) == (2, 1, 1)


def test_stop_lets_the_inference_in_hand_finish():
    client = ScriptedClient()
    bench = Bench(client)

    async def stopped_meanwhile():
        bench.loop.stop_nowait()
        bench.loop.submit_nowait((0, 2))

    client.after = stopped_meanwhile
    bench.loop.submit_nowait((0, 1))
    run(bench)
    assert bench.values == [2.0]


def test_bug_in_fill_comes_out():
    bench = Bench(ScriptedClient())
    bench.loop.submit_nowait("not a pair of numbers")
    with pytest.raises(ValueError, match="unpack"):
        run(bench)


def test_real_worker_decides_on_real_features():
    model = tiny_models.read("dense")
    x = tiny_models.features(1.0, 2.0, 3.0, 4.0)
    decisions = []

    async def scenario():
        async with InferenceClient() as client, asyncio.timeout(30):
            await client.load(model, tiny_models.sha256(model))

            def fill(reading, into):
                into[...] = x
                return Filled(reading, state_age_ns=0)

            def decide(decision):
                decisions.append(decision)
                loop.stop_nowait()

            loop = InferenceLoop(client, fill, decide)
            loop.submit_nowait(loop._clock())
            await loop.run()

    asyncio.run(scenario())
    (decision,) = decisions
    np.testing.assert_allclose(decision.output, tiny_models.dense(x), rtol=1e-6)
    assert decision.latency_ns > decision.invoke_ns > 0
