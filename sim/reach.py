"""Who can hear whom at this moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.network import Network

__all__ = ["component"]


def component(network: Network, name: str) -> list[str]:
    """The devices that are linked with one, over any number of links that both sides hold for up."""
    neighbours: dict[str, list[str]] = {}
    for a, b in network.up:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    found = [name]
    seen = {name}
    for each in found:
        for other in neighbours.get(each, []):
            if other not in seen:
                seen.add(other)
                found.append(other)
    return found
