"""Roles that are devices, asked together and linked as edges say."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.stage import Role

__all__ = ["each", "every", "link"]


async def each(devices: list[Role], verb: str, arguments: list[dict[str, Any]]) -> list[Any]:
    """Ask every device, each with its own arguments."""
    pairs = zip(devices, arguments, strict=True)
    return await asyncio.gather(*(device.ask(verb, **own) for device, own in pairs))


async def every(devices: list[Role], verb: str, **arguments: Any) -> list[Any]:
    """Ask every device the same."""
    return await each(devices, verb, [arguments] * len(devices))


async def link(devices: list[Role], edges: Iterable[tuple[int, int]]) -> None:
    """Link them, the later one dials, and return when all links stand."""
    dials: list[list[list[Any]]] = [[] for _ in devices]
    degree: Counter[int] = Counter()
    for low, high in edges:
        dials[high].append([devices[low].name, devices[low].opened])
        degree.update((low, high))
    await each(devices, "dial", [{"neighbours": one} for one in dials])
    await each(devices, "linked", [{"links": degree[n]} for n in range(len(devices))])
