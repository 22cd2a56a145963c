"""Retained limits hold where a message enters; halves that filled up apart evict by the same rule when they meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.mesh.events import MeshFull
from broker.mesh.limits import RETAINED_HARD_FACTOR
from broker.mesh.retained import RetainedMap
from sim.plants import Plant
from sim.tight import SMALL, tightened

if TYPE_CHECKING:
    from sim.network import Network
    from sim.scene import Scene

RULE = (
    "retained limits apply where a message enters; a merge evicts at a hard cap, everywhere alike"
)


def _always(_: Any) -> Any:
    return lambda *_arguments: True


BUG = Plant("there is always room", "", RetainedMap, "has_room", _always)


def tell(scene: Scene) -> None:
    """Let it happen."""
    limit = SMALL["RETAINED_TOPICS_MAX"]
    with tightened(wanted=True, devices=3):
        network = scene.network("abc", [("a", "b"), ("b", "c")])
        network.partition([("a", "b"), ("b", "c")])
        for name in "abc":
            taken = sum(_publish(network, name, number) for number in range(2 * limit))
            scene.same(taken, limit, f"topics that {name} took")
            network.run(50)
        network.heal()
        network.run(20_000)
        maps = {name: network.retained(name) for name in "abc"}
        scene.same(len(maps["a"]), limit * RETAINED_HARD_FACTOR, "topics after the merge")
        scene.expect(maps["a"] == maps["b"] == maps["c"], "the maps differ")
        newest = {f"r/c/{number}" for number in range(limit)}
        scene.expect(newest <= set(maps["a"]), "the newest topics gave way")


def _publish(network: Network, name: str, number: int) -> bool:
    try:
        network.publish(name, f"r/{name}/{number}", b"v", qos=1, retained=True)
    except MeshFull:
        return False
    return True
