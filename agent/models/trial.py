"""A new version is tried beside the one that runs, before it decides anything.

Decides whether it may come into use: it takes and gives the shapes that its manifest says, this device's features fill
its input, the manifest's own sample brings about what the manifest expects, and its inferences take no longer than the
manifest bears, by comparison with the version that runs, measured in turns with it. All of it happens in a worker of
its own, so that what hangs or crashes there costs the version and nothing else. Half of the time is left to what runs.

Assumes that the version is loaded (`agent/infer/standby.py`). On failure: `VersionBad` with a reason as it is counted.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.infer.backend import InferenceError, InvokeFailed
from agent.infer.records import WorkerLost
from agent.models.health import too_slow
from agent.models.steps import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from agent.infer.backend import FloatArray
    from agent.infer.client import InferenceClient
    from agent.infer.records import ModelInfo
    from agent.infer.standby import Version
    from agent.models.manifest import Manifest, Sample

__all__ = [
    "INFERENCES",
    "VersionBad",
    "accelerator_check",
    "inference_ns",
    "sample_features",
    "try_out",
    "wrong_sample",
    "wrong_shape",
]

INFERENCES: Final = 3
"""Of each version in one look, of which the fastest counts: others may meet a busy machine. More are made only while
it looks too slow, since ten devices that share two cores each wait for the others' trials."""
LOOKS_MAX: Final = 9
"""So many looks at most. Beside 24 threads that compute on two cores a version of 5 ms that was as fast as the one
before looked too slow at 11 of 100 first looks, and in 1 of 2,000 trials (as test_trial.py)."""


class VersionBad(Exception):
    """A version is not taken into use, or not kept.

    Args:
        reason: As it is counted.
        detail: For people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def sample_features(sample: Sample, shape: tuple[int, ...]) -> FloatArray:
    """The input that a sample describes, float32 of that shape."""
    levels = np.frombuffer(sample.levels(math.prod(shape)), np.uint8).astype(np.float32)
    span = np.float32(sample.high) - np.float32(sample.low)
    return (np.float32(sample.low) + levels * (span / np.float32(255))).reshape(shape)


async def try_out(
    version: Version,
    manifest: Manifest,
    running: Version | None,
    fits: Callable[[tuple[int, ...]], str],
) -> int | None:
    """Try a version that was loaded.

    Args:
        version: The version.
        manifest: What is said of it.
        running: What it is to replace.
        fits: Says why this device's features do not fill an input of that shape; empty: they do.

    Returns:
        The fastest inference of the version that runs, on the processor, in nanoseconds; None: it was not measured.

    Raises:
        VersionBad: It must not come into use.
    """
    info = version.info
    wrong = wrong_shape(manifest, info)
    if wrong:
        raise VersionBad("wrong shape", wrong)
    if running is not None and running.info.input.shape != info.input.shape:
        misfit = fits(info.input.shape)
        if misfit:
            raise VersionBad("wrong shape", f"it takes {info.input.shape}: {misfit}")
    try:
        wrong = await wrong_sample(version.client, manifest.sample, info.input.shape)
        if wrong:
            raise VersionBad("sample", wrong)
        return await _compared(version, running, manifest.rollout.latency_factor_max)
    except (WorkerLost, InvokeFailed) as problem:
        raise VersionBad("trial failed", problem.reason) from None


def wrong_shape(manifest: Manifest, info: ModelInfo) -> str:
    """How what a file takes or gives differs from what its manifest says; empty: it does not."""
    for what, tensors, seen in (
        ("takes", manifest.inputs, info.input.shape),
        ("gives", manifest.outputs, info.output.shape),
    ):
        said = [tensor.shape for tensor in tensors]
        if said != [seen]:
            return f"it {what} {seen}, and its manifest says {', '.join(map(str, said))}"
    return ""


async def wrong_sample(client: InferenceClient, sample: Sample, shape: tuple[int, ...]) -> str:
    """How what a sample brings about differs from what its manifest expects; empty: it does not.

    Raises:
        InferenceError: It does not run.
    """
    # In a thread: a picture of 12 MB takes 50 ms.
    features = await asyncio.to_thread(sample_features, sample, shape)
    output = (await client.infer(features)).output.ravel()
    if sample.agrees(output[:: sample.stride].tolist()):
        return ""
    return f"what comes out differs by more than {sample.tolerance:.3g} from what its manifest says"


def accelerator_check(
    manifest: Manifest,
) -> Callable[[InferenceClient, ModelInfo], Coroutine[None, None, str]]:
    """What says how a version's file for an accelerator differs from its manifest; empty: it does not."""

    async def check(client: InferenceClient, info: ModelInfo) -> str:
        wrong = wrong_shape(manifest, info)
        return wrong or await wrong_sample(client, manifest.sample, info.input.shape)

    return check


async def inference_ns(client: InferenceClient, shape: tuple[int, ...], count: int) -> list[int]:
    """What so many inferences take, in nanoseconds; as long a pause follows each.

    Who cancels this waits for the inference under way: cut short it would cost the worker, which may be the one that
    serves, and the version there its good name.

    Raises:
        InferenceError: One failed.
    """
    zeros = np.zeros(shape, np.float32)
    taken = []
    for _ in range(count):
        taken.append((await to_its_end(client.infer(zeros))).invoke_ns)
        await asyncio.sleep(taken[-1] / 1e9)
    return taken


async def _compared(version: Version, running: Version | None, factor_max: float) -> int | None:
    """The fastest inference of what runs, in nanoseconds.

    Raises:
        VersionBad: The new one's takes too long.
        InferenceError: One of the new one's failed.
    """
    taken: list[int] = []
    usual: list[int] = []
    for _ in range(LOOKS_MAX):
        for _ in range(INFERENCES):
            taken += await inference_ns(version.client, version.info.input.shape, 1)
            if running is not None:
                try:
                    usual += await inference_ns(running.client, running.info.input.shape, 1)
                except InferenceError:  # its own trouble, which does not count against the new one
                    running = None
        if running is None:
            return None
        if not too_slow(min(taken), min(usual), factor_max):
            return min(usual)
    text = f"an inference takes {min(taken) / 1e6:.1f} ms, and {min(usual) / 1e6:.1f} before"
    raise VersionBad("slow", text)
