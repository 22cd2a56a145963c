"""After a boot what was delivered before is memory, and what was published alone is still there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.plants import PLANTS

if TYPE_CHECKING:
    from sim.scene import Scene

RULE = "positions are stored; after a boot older messages are memory, and own ones are not lost"
BUG = PLANTS["memory-as-news"]


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("abc", [("a", "b"), ("b", "c")])
    network.publish("a", "t", b"before", qos=1)
    network.run(500)
    network.kill("c")
    network.publish("a", "t", b"meanwhile", qos=1)
    network.run(500)
    network.devices["c"].heard.clear()
    network.restart("c")
    network.run(2_000)
    scene.same(network.payloads("c", rebuild=True), [b"before"], "the memory of c")
    scene.same(network.payloads("c", rebuild=False), [b"meanwhile"], "the news of c")
    network.partition([("a", "b")])
    network.publish("a", "t", b"alone", qos=1)
    network.kill("a")
    network.run(100)
    network.boot("a")
    network.heal()
    network.run(2_000)
    for name in "bc":
        news = network.payloads(name, rebuild=False)
        scene.same(news[-1:], [b"alone"], f"the last news of {name}")
