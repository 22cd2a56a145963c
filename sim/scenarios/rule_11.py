"""Who was away for longer than deletions are remembered brings nothing deleted back, and erases nothing.

`c` is off while `a` deletes a topic and says another; then three times as long passes as deletions are
remembered, which is 20 s here. When `c` returns, what was deleted stays
deleted, what was said while it was away stays, and what `c` itself says is its own still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.mesh import horizon
from broker.mesh.clock import LOGICAL_BITS
from broker.mesh.horizon import Horizon
from sim.plants import Plant, planted

if TYPE_CHECKING:
    from sim.scene import Scene

RULE = "digests carry the tombstone floor; an entry below it that the other side lacks is dropped"

FORGET_MS = 20_000
"""In place of ten days."""
STEP = 1_000 << LOGICAL_BITS
"""In place of an hour."""


def _floorless(original: Any) -> Any:
    def bug(self: Horizon, clock: int, now_ns: int) -> int:
        original(self, clock, now_ns)
        return 0

    return bug


BUG = Plant("the floor is ignored", "", Horizon, "floor", _floorless)


def tell(scene: Scene) -> None:
    """Let it happen."""
    forget = Plant("", "", horizon, "TOMBSTONE_MS", lambda _: FORGET_MS)
    step = Plant("", "", horizon, "_HOUR", lambda _: STEP)
    with planted(forget), planted(step):
        _tell(scene)


def _tell(scene: Scene) -> None:
    network = scene.network("abc", [("a", "b"), ("b", "c")])
    network.run(2 * FORGET_MS)
    network.publish("a", "deleted", b"once", qos=1, retained=True)
    network.publish("a", "stays", b"value", qos=1, retained=True)
    network.publish("c", "own", b"of c", qos=1, retained=True)
    network.run(1_000)
    network.kill("c")
    network.publish("a", "deleted", b"", qos=1, retained=True)
    network.publish("a", "meanwhile", b"new", qos=1, retained=True)
    network.run(3 * FORGET_MS)
    remembered = [t for t, e in network.devices["a"].running.retained.items() if not e.payload]
    scene.same(remembered, [], "deletions that a still remembers")
    network.restart("c")
    network.run(20_000)
    wanted = {"stays": b"value", "own": b"of c", "meanwhile": b"new"}
    for name in "abc":
        scene.same(network.retained(name), wanted, f"the map of {name}")
