"""A tree that breaks without a socket noticing is mended for an origin that only says fresh things.

In a triangle `c` hears `a` by way of `b` or directly. Whichever way carries the tree is blocked, in that direction
only; announcements on the other must graft it before anybody would think `a` dead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.mesh.limits import MS
from broker.mesh.tree import Tree
from sim.plants import Plant

if TYPE_CHECKING:
    from sim.network import Network
    from sim.scene import Scene

RULE = "the newest fresh sequence per origin is announced; missing it grafts"


def _nothing(_: Any) -> Any:
    return lambda *_arguments: None


BUG = Plant("announcements of fresh lanes are not listened to", "", Tree, "hear", _nothing)


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("abc", [("a", "b"), ("a", "c"), ("b", "c")])
    _beat(network, 30)
    sent = {name: _bundles_out(network, name, "c") for name in "ab"}
    _beat(network, 10)
    carrier = max("ab", key=lambda name: _bundles_out(network, name, "c") - sent[name])
    heard_before = len(network.payloads("c"))
    network.block(carrier, "c", blocked=True)
    began_ns = network.now_ns
    while len(network.payloads("c")) == heard_before and network.now_ns - began_ns < 5_000 * MS:
        _beat(network, 1)
    waited_ms = (network.now_ns - began_ns) // MS
    scene.expect(waited_ms < 1_500, f"c heard nothing of a for {waited_ms} ms")
    counters = [device.running.statistics().counters for device in network.devices.values()]
    scene.expect(any(row.get("grafts") for row in counters), "nothing was grafted")


def _beat(network: Network, times: int) -> None:
    for _ in range(times):
        network.publish("a", "heartbeat", b"up", priority=3, lifetime_ms=3_000)
        network.run(100)


def _bundles_out(network: Network, name: str, peer: str) -> int:
    rows = network.devices[name].running.statistics().peers
    return next(row.bundles_out for row in rows if row.name == peer)
