"""A retained message that is not newer than the map's entry reaches nobody, and still closes its sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.mesh.intake import Intake
from sim.plants import Plant

if TYPE_CHECKING:
    from broker.mesh.bundle import Message
    from sim.scene import Scene

RULE = "what is superseded closes its sequence and reaches nobody"


def _always(original: Any) -> Any:
    def bug(self: Intake, origin: str, message: Message, **options: Any) -> bool:
        original(self, origin, message, **options)
        return True

    return bug


BUG = Plant("an older value is handed on", "", Intake, "retain", _always)


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("abc", [("a", "b"), ("b", "c")])
    network.partition([("a", "b")])
    network.publish("a", "r", b"old", qos=1, retained=True)
    network.publish("a", "t", b"behind", qos=1)
    network.run(100)
    network.publish("b", "r", b"new", qos=1, retained=True)
    network.heal()
    network.run(5_000)
    for name in "bc":
        scene.same(network.payloads(name), [b"new", b"behind"], f"what {name} heard")
    scene.same(network.payloads("a")[-1:], [b"new"], "the last that a heard")
    superseded = network.devices["b"].running.statistics().counters.get("superseded", 0)
    scene.expect(superseded, "nothing was superseded")
