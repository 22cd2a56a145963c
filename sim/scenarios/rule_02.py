"""A kept message that expired on the way travels as its bare header: nothing is delivered, nothing waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.mesh.frame import NEVER
from broker.mesh.log import Stored
from sim.plants import Plant

if TYPE_CHECKING:
    from sim.scene import Scene

RULE = "lifetime travels as remaining milliseconds; an expired kept bundle closes its sequence"


def _ageless(_: Any) -> Any:
    def bug(self: Stored, now_ns: int) -> int:
        del now_ns
        return self.header.lifetime_ms or NEVER

    return bug


BUG = Plant("a bundle's age is not counted", "", Stored, "remaining_ms", _ageless)


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("abc", [("a", "b"), ("b", "c")])
    network.partition([("a", "b")])
    network.publish("a", "t", b"short", qos=1, lifetime_ms=300)
    network.publish("a", "t", b"long", qos=1, lifetime_ms=60_000)
    network.publish("a", "t", b"ever", qos=1)
    network.run(1_000)
    network.heal()
    network.run(2_000)
    for name in "bc":
        scene.same(network.payloads(name), [b"long", b"ever"], f"what {name} heard")
        scene.same(network.devices[name].gaps, [], f"gaps of {name}")
