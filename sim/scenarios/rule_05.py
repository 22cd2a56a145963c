"""A device that lost its disk goes above the incarnation that its neighbours know, and nothing is lost or repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.mesh.dialogue import Dialogue
from sim.disk import Disk
from sim.plants import Plant
from sim.watcher import Death

if TYPE_CHECKING:
    from sim.scene import Scene

RULE = "incarnation changes at boot, and goes above what neighbours know after a lost disk"


def _nothing(_: Any) -> Any:
    return lambda *_arguments: None


BUG = Plant("the incarnation is not raised", "", Dialogue, "_raise_incarnation", _nothing)


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("abc", [("a", "b"), ("a", "c"), ("b", "c")], incarnation_max=1 << 20)
    network.publish("a", "t", b"old", qos=1)
    network.run(500)
    before = network.devices["a"].running.incarnation
    network.kill("a", how=Death.DISK)
    network.devices["a"].disk = Disk(1)
    network.boot("a")
    network.publish("a", "t", b"unheard", qos=1)
    for edge in network.edges:
        network.connect(edge)
    network.run(2_000)
    network.publish("a", "t", b"new", qos=1)
    network.run(2_000)
    scene.expect(network.devices["a"].running.incarnation > before, "the incarnation is not above")
    for name in "bc":
        wanted = [b"old", b"unheard", b"new"]
        scene.same(network.payloads(name, rebuild=False), wanted, f"what {name} heard")
        scene.same(network.devices[name].gaps, [], f"gaps of {name}")
