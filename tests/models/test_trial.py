"""How inferences are measured, and how often a busy machine is mistaken for a slow version."""

import asyncio
from random import Random
from types import SimpleNamespace

import pytest

from agent.infer.backend import InvokeFailed
from agent.models import trial
from agent.models.manifest import Rollout, Sample
from agent.models.trial import VersionBad, inference_ns, try_out
from tests.models.manifests import manifest


def test_who_measures_no_longer_lets_the_inference_under_way_end():
    ended = []

    async def story():
        begun, go = asyncio.Event(), asyncio.Event()

        class Serving:
            async def infer(self, _):
                begun.set()
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    ended.append("cut short")  # which costs the worker
                    raise
                ended.append("whole")
                return SimpleNamespace(invoke_ns=1)

        measuring = asyncio.create_task(inference_ns(Serving(), (1, 4), 3))
        await begun.wait()
        measuring.cancel()
        asyncio.get_running_loop().call_later(0.01, go.set)
        with pytest.raises(asyncio.CancelledError):
            await measuring

    asyncio.run(story())
    assert ended == ["whole"]


SLICE_MS = 3.0
"""How long a thread that computes holds a processor."""
CORES = 2


def beside(threads, random, compute_ms):
    """What an inference takes beside other threads that compute: it waits before it begins, and after each slice."""
    waits_ms = SLICE_MS * max(0.0, (threads + 1) / CORES - 1)
    taken_ms = random.expovariate(1 / waits_ms) if waits_ms and random.random() < 0.5 else 0.0
    left_ms = compute_ms
    while left_ms > 0:
        slice_ms = min(left_ms, random.uniform(0.5, SLICE_MS + 1))
        taken_ms += slice_ms
        left_ms -= slice_ms
        if left_ms > 0 and waits_ms:
            taken_ms += random.expovariate(1 / waits_ms)
    return taken_ms


def loaded(random, threads, compute_ms):
    """A version whose inferences take as long as that; each output is as its sample says."""

    class Client:
        inferences = 0

        async def infer(self, _):
            self.inferences += 1
            taken_ns = round(beside(threads, random, compute_ms) * 1e6)
            return SimpleNamespace(output=trial.np.zeros((1, 3)), invoke_ns=taken_ns)

    info = SimpleNamespace(
        input=SimpleNamespace(shape=(1, 4)), output=SimpleNamespace(shape=(1, 3))
    )
    return SimpleNamespace(client=Client(), info=info)


MANIFEST = manifest(
    sample=Sample(low=0, high=1, seed=7, expected=(0.0, 0.0, 0.0), tolerance=0.1),
    rollout=Rollout(latency_factor_max=3.0),
)


@pytest.fixture
def virtual(monkeypatch):
    """Pauses take no time, and what is to be done in a thread is done at once."""

    async def at_once(what, *arguments):
        return what(*arguments)

    async def no_pause(_):
        pass

    monkeypatch.setattr(trial.asyncio, "sleep", no_pause)
    monkeypatch.setattr(trial.asyncio, "to_thread", at_once)


def refused(trials, threads, compute_ms, times_as_slow):
    """In how many trials a version was too slow beside one that takes `compute_ms`."""

    async def story():
        count = 0
        for seed in range(trials):
            random = Random(seed)
            new = loaded(random, threads, compute_ms * times_as_slow)
            try:
                await try_out(new, MANIFEST, loaded(random, threads, compute_ms), lambda _: "")
            except VersionBad as error:
                count += error.reason == "slow"
        return count

    return asyncio.run(story())


@pytest.mark.parametrize("compute_ms", [1, 5, 10, 40])
@pytest.mark.parametrize("threads", [0, 12, 24])
def test_a_version_of_equal_speed_is_taken_however_busy_the_machine(virtual, threads, compute_ms):
    assert refused(300, threads, compute_ms, 1) <= 1


def test_one_look_would_refuse_good_versions(virtual, monkeypatch):
    monkeypatch.setattr(trial, "LOOKS_MAX", 1)
    assert refused(300, 24, 5, 1) > 5


@pytest.mark.parametrize(
    ("threads", "compute_ms", "times_as_slow", "share"),
    [(0, 10, 2, 0.0), (0, 10, 5, 1.0), (12, 10, 6, 0.98), (24, 10, 6, 0.98), (24, 40, 5, 0.98)],
)
def test_a_slow_version_is_refused_and_one_within_its_bound_is_not(
    virtual, threads, compute_ms, times_as_slow, share
):
    count = refused(200, threads, compute_ms, times_as_slow)
    assert (count >= share * 200) if share else count == 0


def test_trouble_of_the_version_that_runs_is_not_the_new_ones(virtual):
    new, runs = loaded(Random(1), 0, 90), loaded(Random(1), 0, 1)

    async def fails(_):
        raise InvokeFailed("as the test says")

    runs.client.infer = fails
    assert asyncio.run(try_out(new, MANIFEST, runs, lambda _: "")) is None
    assert new.client.inferences == 1 + trial.INFERENCES
