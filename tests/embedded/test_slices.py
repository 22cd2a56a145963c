"""Slices of a turn: when work that found its slice used up goes on."""

import asyncio

import pytest

from broker.embedded import slices as module
from broker.embedded.slices import Slices


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def used_up(shared: list[object]) -> Slices:
    slices = Slices(1e-9, lambda: bool(shared))
    assert not slices.is_over()  # the first look begins it
    assert slices.is_over()
    return slices


@pytest.fixture
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_PAUSE_S", 1000.0)


@pytest.mark.usefixtures("long_pause")
async def test_what_waits_goes_on_in_the_next_turn_where_nobody_shares_the_loop() -> None:
    slices, done = used_up([]), []
    slices.later(lambda: done.append(1))
    await turns()
    assert done == [1]


@pytest.mark.usefixtures("long_pause")
async def test_where_the_loop_is_shared_everybody_waits_for_the_end_of_a_pause() -> None:
    slices, done = used_up(["neighbour"]), []
    slices.later(lambda: done.append(1))
    await turns()
    assert slices.is_over()  # for whoever comes now, too
    assert done == []


@pytest.mark.usefixtures("long_pause")
async def test_nobody_pauses_when_nobody_waits() -> None:
    slices = used_up(["neighbour"])
    await turns()
    assert not slices.is_over()


async def test_after_the_pause_all_have_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_PAUSE_S", 0.0)
    slices, done = used_up(["neighbour"]), []
    gone_on = asyncio.Event()
    for number in range(3):
        slices.later(lambda number=number: done.append(number))
    slices.later(gone_on.set)
    async with asyncio.timeout(10):
        await gone_on.wait()
    assert done == [0, 1, 2]


async def test_few_small_reads_begin_no_slice() -> None:
    slices = Slices(1e-9)
    assert not any(slices.is_over_for(100) for _ in range(3))
    await turns()
    assert not any(slices.is_over_for(100) for _ in range(2))
    assert not slices.is_over_for(100)  # the sixth begins it, whatever turns they came in
    assert slices.is_over_for(100)


async def test_many_small_reads_and_a_large_one_begin_a_slice() -> None:
    for reads in ([2] * 8, [4096]):
        slices = Slices(1e-9)
        assert not any(slices.is_over_for(read_bytes) for read_bytes in reads)
        assert slices.is_over_for(2)


async def test_a_small_read_does_not_pass_those_that_wait() -> None:
    slices = used_up([])
    slices.later(lambda: None)
    assert slices.is_over_for(2)
