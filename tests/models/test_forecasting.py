"""What becomes of a device where a part of its inference has a defect: it goes on without, and says so."""

import asyncio
import io

import msgspec
import pytest
from rich.console import Console

from agent.commands.status import render
from agent.commands.status_form import Report
from agent.infer.loop import InferenceLoop
from agent.models.follower import ModelFollower
from tests.models.devices import one, running
from tests.models.follow import good, payload
from tests.waiting import until


def ended(each):
    return each.report()["worker"]["ended"]


def shown(each):
    out = io.StringIO()
    render(msgspec.convert(each.report(), Report), Console(file=out, width=300))
    return out.getvalue()


@pytest.mark.parametrize("part", [InferenceLoop, ModelFollower])
def test_where_one_part_of_inference_fails_the_other_ends_and_the_device_says_so(
    tmp_path, monkeypatch, caplog, part
):
    defect, going = asyncio.Event(), []
    whole = part.run
    other = ModelFollower if part is InferenceLoop else InferenceLoop
    other_whole = other.run

    async def fails(self):
        going.append(task := asyncio.ensure_future(whole(self)))
        await defect.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise RuntimeError("as the test says")

    async def goes_on(self):
        try:
            await other_whole(self)
        finally:
            going.append("ended")

    monkeypatch.setattr(part, "run", fails)
    monkeypatch.setattr(other, "run", goes_on)
    draft = good(tmp_path / "models")

    async def story():
        async with one(tmp_path, models=tmp_path / "models") as (each, _):
            await each.publish_model(payload(draft, 1))
            await until(running(each, "1"), "version 1")
            assert ended(each) == ""
            assert "has ended by a defect" not in shown(each)
            defect.set()
            await until(lambda: ended(each), "that it is told")
            assert ended(each) == "RuntimeError: as the test says"
            assert "inference has ended by a defect: RuntimeError: as the test says" in shown(each)
            assert going[-1] == "ended"
            await until(lambda: each.report()["worker"]["pid"] is None, "the worker's end")
            assert each.report()["models"]["occupancy"]["version"] is None
            told = each.world.snapshot().model_status["a", "occupancy"]
            assert (told.version, told.state, told.running) == ("1", "rolled-back", None)
            assert told.reason == "inference has ended by a defect: RuntimeError: as the test says"
            await each.node.publish("still", b"here", qos=1)

    asyncio.run(story())
    assert "as the test says" in caplog.text
