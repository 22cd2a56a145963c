"""A session that ends takes its filters away in slices of the turn, and gets nothing any more meanwhile."""

import asyncio

from broker.embedded import Limits
from broker.embedded.exchange import Exchange
from broker.embedded.slices import Slices
from tests.embedded.harness import Nowhere

FILTERS = 900


class Node(Nowhere):
    """A node without retained messages."""

    def retained_matching(self, topic_filter: str) -> list[tuple[str, bytes, int]]:
        return []


class Output(Nowhere):
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


async def test_many_filters_go_in_slices_and_nothing_is_delivered_to_them() -> None:
    exchange = Exchange(Node(), "self", Limits())
    exchange.slices = Slices(1e-9)  # the second look at the time in a turn finds it used up
    gone, stays = Output(), Output()
    leaving, _ = exchange.enter("gone", gone, clean=True)
    staying, _ = exchange.enter("stays", stays, clean=True)
    filters = [f"{number}/x" for number in range(FILTERS)]
    for each in filters:
        exchange.subscribe(leaving, each, 1)
    exchange.subscribe(staying, "+/x", 1)
    exchange.leave(leaving, gone)
    assert "gone" not in exchange.sessions
    assert 0 < len(exchange.trie) - 1 < FILTERS
    for each in filters:
        exchange.route(each, b"late", 1)
    assert leaving.kept_bytes == 0
    async with asyncio.timeout(10):
        while len(exchange.trie) > 1:
            await asyncio.sleep(0)
    exchange.flush(committed=True, pressed=False)
    assert gone.written == b""
    assert stays.written.count(b"late") == FILTERS


async def test_few_filters_go_at_once() -> None:
    exchange = Exchange(Node(), "self", Limits())
    exchange.slices = Slices(1e-9)
    output = Output()
    session, _ = exchange.enter("gone", output, clean=True)
    for number in range(15):
        exchange.subscribe(session, f"{number}/x", 1)
    exchange.leave(session, output)
    assert len(exchange.trie) == 0
