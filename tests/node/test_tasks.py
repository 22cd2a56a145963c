"""What a device does beside its turns is waited for by nobody: where it ends by a defect, the log says so at once."""

import asyncio

import pytest

from broker.link import Neighbour
from broker.neighbourhood import Neighbourhood, Settings
from tests.node.fleet import start
from tests.waiting import until


async def fails(*_):
    raise RuntimeError("as the test says")


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("broker.node.keep_wall_clock", "a clock has failed"),
        ("broker.dialler.Dialler.run", "a dial b has failed"),
        ("broker.neighbourhood.ask", "a seed 127.0.0.1 has failed"),
    ],
)
def test_what_ends_by_a_defect_is_told_at_once(tmp_path, monkeypatch, caplog, where, what):
    monkeypatch.setattr(where, fails)

    async def story():
        node = await start("a", tmp_path)
        node.dial(Neighbour("b", "127.0.0.1", 9))
        settings = Settings(site="town", kind="nearest", seeds=[("127.0.0.1", 9)])
        neighbourhood = Neighbourhood(node, settings, "127.0.0.1")
        await neighbourhood.start()
        await until(lambda: what in caplog.text, "the failure in the log")
        await neighbourhood.stop()
        await node.stop()

    asyncio.run(story())
    assert "RuntimeError: as the test says" in caplog.text
