"""What the devices of a simulation say: kept and fresh, retained and not, with and without a lifetime, small and large.

Decides what is published when and by whom, from a stream of chance of its own. A publish that the mesh refuses
(`MeshFull`) is counted and not tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.mesh.events import MeshFull
from broker.mesh.limits import MS
from sim.ledger import Published
from sim.randomness import stream

if TYPE_CHECKING:
    from sim.ledger import Ledger
    from sim.network import Network

__all__ = ["Workload"]


BULK: Final = 0.98
"""From here on a draw is a large message, which comes alone."""


class Workload:
    """Publishes at exponential intervals while it is active.

    Args:
        network: Where.
        ledger: Who is told.
        seed: The seed of the run.
        rate: Publishes a second in all.
        burst: How many messages a publish has at most, all in one turn.
        plain: Only kept messages of about 100 bytes.
    """

    def __init__(
        self,
        network: Network,
        ledger: Ledger,
        seed: int,
        *,
        rate: float,
        burst: int = 1,
        plain: bool = False,
    ) -> None:
        self._network = network
        self._ledger = ledger
        self._random = stream(seed, "workload")
        self._rate = rate
        self._burst = burst
        self._plain = plain
        self._active = False
        self._names = list(network.devices)
        self.refused = 0
        self._next()

    def start(self) -> None:
        """Begin, or go on."""
        self._active = True

    def stop(self) -> None:
        """Say nothing more."""
        self._active = False

    def publish(self, name: str, topic: str, size_bytes: int = 0, **options: Any) -> bool:
        """Publish in the present turn of a device. False: it was refused.

        Args:
            name: The device.
            topic: The topic.
            size_bytes: Of the payload, which is longer if the serial does not fit; negative: a deletion.
            options: Those of `Mesh.publish`.
        """
        network, ledger = self._network, self._ledger
        payload = b"" if size_bytes < 0 else ledger.payload(size_bytes)
        mesh = network.devices[name].running
        rank = options.get("rank", 0)
        if not payload and (present := mesh.retained.get(topic)) is not None:
            rank = present.rank
        try:
            clock = mesh.publish(topic, payload, network.now_ns, **options)
        except MeshFull:
            self.refused += 1
            return False
        message = Published(
            ledger.next_serial,
            name,
            network.now_ns,
            topic,
            options.get("qos", 0),
            options.get("retained", False),
            options.get("priority", 2),
            options.get("lifetime_ms", 0),
            clock,
            rank,
            not payload,
            to=options.get("to", ""),
        )
        for watcher in network.watchers:
            watcher.published(network.now_ns, message)
        return True

    def _next(self) -> None:
        delay_ns = int(self._random.expovariate(self._rate) * 1000 * MS)
        self._network.at(self._network.now_ns + delay_ns, self._say)

    def _say(self, _: None) -> None:
        name = self._random.choice(self._names)
        kind = self._random.random()
        count = self._random.randint(1, self._burst)
        if self._active and self._network.devices[name].mesh is not None:
            for _index in range(1 if kind >= BULK else count):
                self._one(name, kind)
            self._network.turn(name)
        self._next()

    def _one(self, name: str, kind: float) -> None:
        random = self._random
        size = random.randint(0, 150)
        priority = random.randint(0, 4)
        number = random.randint(0, 5)
        if self._plain:
            self.publish(name, f"t/{name}", 100, qos=1)
        elif kind < 0.45:
            self.publish(name, f"t/{name}", size, qos=1, priority=priority)
        elif kind < 0.55:
            lifetime_ms = random.choice([50, 500, 5_000])
            self.publish(name, f"e/{name}", size, qos=1, priority=1, lifetime_ms=lifetime_ms)
        elif kind < 0.75:
            delete = random.random() < 0.4
            rank = random.choice([0, 0, 0, 1])
            self.publish(
                name, f"r/{number}", -1 if delete else size, qos=1, retained=True, rank=rank
            )
        elif kind < 0.77:
            to = random.choice([other for other in self._names if other != name])
            self.publish(name, f"c/{to}/{name}", size, qos=1, lifetime_ms=2_000, to=to)
        elif kind < 0.8:
            self.publish(name, f"r/{name}/{number}", size, qos=0, retained=True, priority=3)
        elif kind < BULK:
            self.publish(name, f"f/{name}/{number}", size, priority=3, lifetime_ms=3_000)
        else:
            self.publish(name, f"t/{name}", random.randint(40_000, 200_000), qos=1, priority=4)
