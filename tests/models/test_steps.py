"""Steps that are not cut short, however often they are cancelled."""

import asyncio

import pytest

from agent.models.steps import to_its_end


@pytest.mark.parametrize("times", [1, 3])
def test_who_cancels_a_step_waits_for_its_end_and_its_result_is_undone(times):
    undone = []

    async def story():
        begun, go = asyncio.Event(), asyncio.Event()

        async def step():
            begun.set()
            await go.wait()
            return "made"

        waiting = asyncio.create_task(to_its_end(step(), undone.append))
        await begun.wait()
        for _ in range(times):
            waiting.cancel()
            await asyncio.wait({waiting}, timeout=0.01)
            assert not waiting.done()
        assert undone == []
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(story())
    assert undone == ["made"]
