"""Waiting for what happens elsewhere: for a condition, never for a time."""

import asyncio

DEADLINE_S = 20


async def until(condition, what):
    """Wait until a condition holds; fail with `what` after a deadline."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"after {DEADLINE_S} s there is not: {what}") from None
