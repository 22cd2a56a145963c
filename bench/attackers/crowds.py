"""The role that attacks by connections: `python -m bench.role bench.attackers.crowds:Crowds`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bench.attackers import scripts
from bench.attackers.scripts import Target, strangers
from bench.role import Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.attackers.crowd import Crowd

__all__ = ["CROWDS", "Crowds"]

CROWDS: Final[dict[str, Callable[[Target], Crowd]]] = {
    "nobody": scripts.nobody,
    "no certificate": strangers(None, "mesh-e"),
    "another fleet": strangers("spy", "mesh-spy"),
    "expired": strangers("old", "mesh-old"),
    "revoked": strangers("gone", "mesh-gone"),
    "connections": scripts.connections,
    "half open": scripts.half_open,
    "slow connect": scripts.slow_connect,
    "huge packets": scripts.huge_packets,
    "subscription bombs": scripts.subscription_bombs,
    "retained bombs": scripts.retained_bombs,
    "names": scripts.names,
    "never reads": scripts.never_reads,
}


class Crowds(Part):
    """One attacker."""

    async def open(self, *, attack: str, target: list[Any]) -> None:
        """Make ready; nothing is sent yet."""
        self._crowd = CROWDS[attack](Target(*target))

    async def attack(self, *, seconds: float) -> dict[str, Any]:
        """Attack; returns how often it began, what became of that, and the share of a core that it took."""
        share = self._crowd.run(seconds)
        return {"begun": self._crowd.begun, "errors": dict(self._crowd.errors), "share": share}
