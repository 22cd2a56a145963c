"""The retained map orders by (rank, clock, origin): a manifest's counter beats a later publish of a lower one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.mesh.retained import Entry, RetainedMap
from sim.plants import Plant

if TYPE_CHECKING:
    from sim.scene import Scene

RULE = "the retained map orders by (rank, clock, origin)"


def _rankless(original: Any) -> Any:
    def bug(self: RetainedMap, topic: str, entry: Entry) -> bool:
        return bool(original(self, topic, entry._replace(rank=0)))

    return bug


BUG = Plant("rank is not looked at", "", RetainedMap, "merge", _rankless)


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("abc", [("a", "b"), ("b", "c")])
    network.partition([("a", "b")])
    network.publish("a", "model", b"counter 2", qos=1, retained=True, rank=2)
    network.run(100)
    network.publish("c", "model", b"counter 1", qos=1, retained=True, rank=1)
    network.publish("a", "plain", b"earlier", qos=1, retained=True)
    network.run(100)
    network.publish("c", "plain", b"later", qos=1, retained=True)
    network.heal()
    network.run(5_000)
    for name in "abc":
        wanted = {"model": b"counter 2", "plain": b"later"}
        scene.same(network.retained(name), wanted, f"the map of {name}")
