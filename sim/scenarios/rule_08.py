"""Who has a hole and neighbours that passed it, but do not hold it, waits for those who do; nothing is given up early.

`b` restarts, so it has passed what `a` said and holds none of it. `d`, who was away, is linked with `b` alone for a
while, then with `c`, who holds everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.plants import PLANTS

if TYPE_CHECKING:
    from sim.scene import Scene

RULE = "a digest says what was passed and from where on it is held; a gap is declared late"
BUG = PLANTS["hasty-gap"]


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("abcd", [("a", "b"), ("a", "c"), ("b", "c"), ("b", "d"), ("c", "d")])
    network.partition([("b", "d"), ("c", "d")])
    wanted = [b"%d" % number for number in range(5)]
    for payload in wanted:
        network.publish("a", "t", payload, qos=1)
        network.run(20)
    network.kill("a")
    network.kill("b")
    network.run(200)
    network.partition([("b", "c")])
    network.boot("b")
    network.cut.discard(("b", "d"))
    network.connect(("b", "d"))
    network.run(4_000)
    scene.same(network.devices["d"].gaps, [], "gaps while holders are away")
    network.heal()
    network.run(4_000)
    scene.same(network.payloads("d", rebuild=False), wanted, "what d heard")
    scene.same(network.devices["d"].gaps, [], "gaps of d")
