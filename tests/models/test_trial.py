"""How inferences are measured."""

import asyncio
from types import SimpleNamespace

import pytest

from agent.models.trial import inference_ns


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
