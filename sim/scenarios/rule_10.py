"""Unicast over four hops while a relay dies, and to somebody who is nowhere: both end in an answer.

The one that is called says a heartbeat now and then, which shows the way to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.mesh.unicast import Unicast
from sim.plants import Plant

if TYPE_CHECKING:
    from sim.network import Network
    from sim.scene import Scene

RULE = "unicast is acknowledged end to end, resent until its deadline, and ends in an answer"


def _deaf(_: Any) -> Any:
    return lambda *_arguments: None


BUG = Plant("nothing is sent again, and no deadline is kept", "", Unicast, "due", _deaf)

EDGES = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("b", "x"), ("x", "d")]


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("abcdex", EDGES)
    for name in "abcdex":
        network.publish(name, "t", b"hello", qos=1)
    network.run(1_000)
    for number in range(20):
        _call(network, "e", b"%d" % number)
        if number % 10 == 9:
            network.publish("e", "heartbeat", b"up", priority=3, lifetime_ms=3_000)
        if number == 10:
            network.kill("c", silent=True)
        network.run(50)
    for _ in range(10):
        network.publish("e", "heartbeat", b"up", priority=3, lifetime_ms=3_000)
        network.run(500)
    calls = [row[3] for row in network.devices["e"].heard if row[2] == "call"]
    lost = {row.clock for row in network.devices["a"].undelivered}
    scene.same(sorted(calls, key=int), [b"%d" % number for number in range(20)], "calls at e")
    scene.same(lost, set(), "calls that ended without an answer")
    clock = _call(network, "nobody", b"?")
    network.run(5_000)
    ended = [row.clock for row in network.devices["a"].undelivered]
    scene.same(ended, [clock], "the call to nobody")


def _call(network: Network, to: str, payload: bytes) -> int:
    return network.publish("a", "call", payload, qos=1, lifetime_ms=4_000, to=to)
