"""Credit: a loaded ring does not wait for itself, and a neighbour that stops reading costs the others nothing.

Four devices in a ring of narrow links all publish more than the links hold, in bulk. Then nothing arrives at `d` any
more for 20 s: the others hear everything that `a` says meanwhile, and `d` catches up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.mesh.credit import Credit
from broker.mesh.events import MeshFull
from broker.mesh.limits import MS
from sim.path import Conditions
from sim.plants import Plant

if TYPE_CHECKING:
    from sim.network import Network
    from sim.scene import Scene

RULE = "credit comes back when a bundle is logged; who makes no progress is suspended"


def _never(_: Any) -> Any:
    return lambda *_arguments: False


BUG = Plant("credit is never given back", "", Credit, "due", _never)

LARGE = bytes(50_000)
RING = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")]


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("abcd", RING)
    for edge in RING:
        for source, target in (edge, edge[::-1]):
            network.path(source, target).conditions = Conditions(capacity_bytes=60_000)
    for number in range(40):
        for name in "abcd":
            _publish(network, name, "bulk", LARGE, priority=4)
            _publish(network, name, "t", b"%d" % number)
        network.run(5)
    network.run(20_000)
    for name in "abcd":
        scene.same(_counts(network, name), (160, 160), f"bulk and small messages at {name}")
    for source in "ac":
        network.clog(source, "d", network.now_ns + 20_000 * MS)
    for number in range(150):
        _publish(network, "a", "t", b"late %d" % number)
        _publish(network, "a", "bulk", LARGE, priority=4)
        network.run(10)
    network.run(2_000)
    for name in "bc":
        scene.same(_counts(network, name), (310, 310), f"messages at {name} while d does not read")
    network.run(60_000)
    scene.same(_counts(network, "d"), (310, 310), "messages at d when it reads again")


def _publish(network: Network, name: str, topic: str, payload: bytes, priority: int = 2) -> None:
    """Publish, and wait where the mesh is full, as a publisher that is told would; 10 s at the most."""
    for _ in range(500):
        try:
            network.publish(name, topic, payload, qos=1, priority=priority)
        except MeshFull:
            network.run(20)
        else:
            return


def _counts(network: Network, name: str) -> tuple[int, int]:
    topics = [row[2] for row in network.devices[name].heard if not row[4]]
    return topics.count("bulk"), topics.count("t")
