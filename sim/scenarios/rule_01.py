"""Kept and fresh never share a bundle, and a fresh one replaces only what it covers.

The way to `b` is full while `a` says fresh values of two topics and kept messages between them. Of the topic that was
said twice the newest must arrive, of the other its only value, and every kept message in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.mesh.outbox import Outbox
from sim.path import Conditions
from sim.plants import Plant

if TYPE_CHECKING:
    from broker.mesh.log import Stored
    from sim.scene import Scene

RULE = "a bundle is kept or fresh, and only what covers a fresh one may replace it in a queue"


def _replace_anything(original: Any) -> Any:
    def bug(self: Outbox, stored: Stored) -> bool:
        slot = self._fresh.get(stored.header.stream)
        if slot is not None:
            slot.stored = stored
            return True
        return bool(original(self, stored))

    return bug


BUG = Plant(
    "a fresh bundle replaces any other of its lane", "", Outbox, "_conflate", _replace_anything
)


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("ab", [("a", "b")])
    path = network.path("a", "b")
    path.conditions = Conditions(capacity_bytes=1)
    network.clog("a", "b", network.now_ns + 1_000_000_000)
    network.publish("a", "fill", b"0", qos=1)
    for number in range(20):
        network.publish("a", "once" if number == 5 else "often", b"%d" % number)
        network.publish("a", "kept", b"%d" % number, qos=1)
    mesh = network.devices["a"].running
    scene.expect(mesh.statistics().peers[0].conflated > 0, "nothing was conflated")
    network.run(10_000)
    heard = network.devices["b"].heard
    of = {
        topic: [row[3] for row in heard if row[2] == topic] for topic in ("once", "often", "kept")
    }
    scene.same(of["once"], [b"5"], "the topic that was said once")
    scene.same(of["often"][-1:], [b"19"], "the newest of the topic that was said often")
    scene.same(of["kept"], [b"%d" % number for number in range(20)], "kept messages")
