"""What clients may take of a turn falls as the end of their turns grows dear, and comes back."""

import asyncio
import time

from broker.embedded.slices import SHORTEST, TURN_OVER_SLICE, Slices

SLICE_S = 0.002


async def used_up(slices: Slices) -> float:
    """Use a turn's slice up; returns how long it was."""
    began_s = time.monotonic()  # a loop's own may stand still within a turn
    while not slices.is_over():
        pass
    took_s = time.monotonic() - began_s
    await asyncio.sleep(0)  # the next turn
    return took_s


async def test_a_dear_end_shortens_the_next_slice() -> None:
    slices = Slices(SLICE_S)
    for _ in range(20):  # the end takes three times as long as the slice
        slices.finished_in(3 * await used_up(slices))
    assert slices.slice_s <= TURN_OVER_SLICE * SLICE_S / 2


async def test_it_never_falls_below_its_least_and_comes_back() -> None:
    slices = Slices(SLICE_S)
    await used_up(slices)
    slices.finished_in(10.0)
    assert slices.slice_s == SHORTEST * SLICE_S
    await used_up(slices)
    slices.finished_in(0.0)
    assert slices.slice_s == SLICE_S


async def test_a_slice_that_was_not_used_up_says_nothing() -> None:
    slices = Slices(60.0)
    assert not slices.is_over()
    slices.finished_in(600.0)
    assert slices.slice_s == 60.0
