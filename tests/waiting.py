"""Waiting for what happens elsewhere: for a condition, never for a time."""

import asyncio

DEADLINE_S = 20


async def until(condition, what, within_s=DEADLINE_S):
    """Wait until a condition holds; fail with `what` after a deadline, in seconds."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"after {within_s} s there is not: {what}") from None
