"""A neighbour may call a device only `lost`, quoting the incarnation it knew: the device's next life outranks it.

`b` calls `a` lost behind a cut; `a` boots meanwhile and says that it is up, before and after which the late word of
`b` arrives. The rank of a status, (incarnation, refutation), must decide, not the clock.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from broker.topic_names import status_topic
from broker.topics import place
from sim.scenarios.rule_03 import BUG

if TYPE_CHECKING:
    from sim.network import Network
    from sim.scene import Scene

__all__ = ["BUG", "RULE", "tell"]

RULE = "a device may say of another only `lost`, quoting the incarnation it knew"


def tell(scene: Scene) -> None:
    """Let it happen."""
    network = scene.network("abcd", [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    _say(network, "a", "a", "up")
    network.run(500)
    network.kill("a")
    network.partition([("b", "d")])
    network.boot("a")
    network.connect(("a", "c"))
    _say(network, "a", "a", "up")
    network.run(1_000)
    _say(network, "b", "a", "lost", incarnation=network.devices["a"].running.incarnation - 1)
    network.run(100)
    network.heal()
    network.connect(("a", "b"))
    network.run(5_000)
    states = {name: _state(network, name) for name in "abcd"}
    scene.same(states, dict.fromkeys("abcd", "up"), "what the devices say of a")
    _say(network, "d", "a", "lost", incarnation=network.devices["a"].running.incarnation)
    network.run(1_000)
    scene.same(_state(network, "a"), "lost", "a word on the present life")
    _say(network, "a", "a", "up", refutation=1)
    network.run(1_000)
    states = {name: _state(network, name) for name in "abcd"}
    scene.same(states, dict.fromkeys("abcd", "up"), "what the devices say of a after it denied it")


def _say(
    network: Network,
    by: str,
    device: str,
    state: str,
    *,
    incarnation: int | None = None,
    refutation: int = 0,
) -> None:
    if incarnation is None:
        incarnation = network.devices[device].running.incarnation
    status = {"state": state, "incarnation": incarnation, "refutation": refutation, "by": by}
    payload = json.dumps(status).encode()
    topic = status_topic(site="site", device=device)
    placed = place(topic, payload, 1, retained=True)
    network.publish(
        by,
        topic,
        payload,
        qos=placed.qos,
        retained=placed.retained,
        priority=placed.priority,
        rank=placed.rank,
    )


def _state(network: Network, name: str) -> str:
    entry = network.devices[name].running.retained.get(status_topic(site="site", device="a"))
    return "" if entry is None else str(json.loads(entry.payload)["state"])
