"""One run of one seed: safety under faults, then liveness of a healed core.

Decides the phases. Half of the time faults strike; then all is mended and everybody must converge within
CONVERGE_MS, publishing paused; faults strike again for the rest; then a core of devices is mended while what stands
between them and the others is made permanent, and the core must converge. Healing everything would hide livelocks
that an asymmetric partition keeps up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from broker.mesh.limits import MS
from sim.adversary import Adversary
from sim.checkers.delivery import Delivery
from sim.checkers.evictions import Evictions
from sim.checkers.loss import Loss
from sim.checkers.memory import Memory
from sim.checkers.order import Order
from sim.checkers.retained import Retained
from sim.checkers.stable import Stable
from sim.graphs import names, random_graph
from sim.ledger import Ledger
from sim.mix import KINDS, Mix, draw
from sim.network import Network
from sim.plants import PLANTS, planted
from sim.randomness import stream
from sim.sometimes import Sometimes
from sim.tight import tightened
from sim.workload import Workload

if TYPE_CHECKING:
    from sim.checkers.checker import Checker, Violation

__all__ = ["LARGE", "Options", "Result", "Story", "tell"]

CONVERGE_MS: Final = 120_000
"""A hole whose origin is away is given up after 15 s, a clock from the future held back for 30 s, and what waited
behind either is delivered and reconciled after it, where a hub that loses much breaks off exchanges that are begun
anew after up to 16 s."""
INCARNATION_MAX: Final = 1 << 24
"""As the store's: a device that lost its disk begins above or below where it was."""
LARGE: Final = 50
"""From so many devices on, frames that arrive within GRAIN_MS are one turn: a third of the work, and as in life."""
GRAIN_MS: Final = 2.0
POLL_MS: Final = 250
LOOKS: Final = 40
"""Times in a run at which memory is looked at."""


@dataclass(frozen=True, slots=True)
class Options:
    """What makes a run. The same options tell the same story."""

    seed: int
    nodes: int = 6
    seconds: float = 4.0
    faults: str = "swarm"
    """`swarm`: a mix that the seed draws; `none`; or kinds of faults, separated by commas."""
    degree: int = 4
    rate: float = 30.0
    """Publishes a second in all."""
    plain: bool = False
    """Only kept messages of 100 bytes."""
    plant: str = ""
    """A bug to plant; see `sim/plants.py`."""


@dataclass(slots=True)
class Result:
    """What came of a run; everything in it depends on the options alone."""

    options: Options
    mix: Mix
    timeline: str = ""
    violations: list[Violation] = field(default_factory=list)
    diary: list[tuple[int, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    stable_ms: dict[str, float] = field(default_factory=dict)


def mix_of(options: Options) -> Mix:
    """The faults of a run."""
    if options.faults == "none":
        return Mix()
    random = stream(options.seed, "mix")
    if options.faults == "swarm":
        return draw(random)
    kinds = options.faults.split(",")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"no faults called {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return draw(random, kinds)


def tell(options: Options) -> Result:
    """Run a seed."""
    mix = mix_of(options)
    if options.plant and options.plant not in PLANTS:
        raise ValueError(f"no bug called {options.plant}; there are {', '.join(PLANTS)}")
    with tightened(wanted=mix.tight, devices=options.nodes), planted(PLANTS.get(options.plant)):
        return Story(options, mix).run()


class Story:
    """One run."""

    def __init__(self, options: Options, mix: Mix) -> None:
        self.options = options
        self.mix = mix
        devices = names(options.nodes)
        random = stream(options.seed, "graph")
        edges = random_graph(devices, options.degree, random)
        self.network = Network(
            devices,
            (),
            options.seed,
            grain_ms=GRAIN_MS if options.nodes >= LARGE else 0,
            incarnation_max=INCARNATION_MAX,
            recording=False,
        )
        network = self.network
        ledger = self.ledger = Ledger()
        self.sometimes = Sometimes()
        evictions = Evictions(network)
        delivery = Delivery(ledger, evictions)
        self.stable = Stable(ledger, delivery)
        order = Order(ledger)
        self.loss = Loss(ledger, delivery, network, tight=mix.tight)
        self.retained = Retained(network, evictions)
        self.memory = Memory(network)
        self.checkers: list[Checker] = [delivery, self.loss, order, self.retained, self.memory]
        self.sometimes.watch(network)
        network.watchers += [ledger, evictions, self.stable, *self.checkers, self.sometimes]
        for name in devices:
            for watcher in network.watchers:
                watcher.booted(network.now_ns, name)
        network.edges = edges
        self.adversary = Adversary(network, mix, options.seed)
        self.workload = Workload(
            network,
            ledger,
            options.seed,
            rate=options.rate,
            burst=mix.burst,
            plain=options.plain,
        )
        for edge in edges:
            network.connect(edge)
        self.converged_ms: list[int] = []

    def run(self) -> Result:
        """Live through all phases."""
        everyone = list(self.network.devices)
        half_ms = self.options.seconds * 1000 / 2
        try:
            self._faults(half_ms)
            self._converge(everyone, "quiet period")
            self._faults(half_ms)
            core = self._core(everyone)
            if self.options.faults != "none":
                self.adversary.strand(core)
            self._converge(core, "healed core")
        except Exception as error:  # noqa: BLE001 - whatever a mesh raises is what this looks for
            self.memory.promise = "nobody raises"
            self.memory.violated(self.network.now_ns, "", f"{type(error).__name__}: {error}")
            core = everyone
        return self._result(core)

    def _core(self, everyone: list[str]) -> list[str]:
        """The devices that are healed: most of them, hanging together."""
        if self.options.faults == "none":
            return everyone
        random = stream(self.options.seed, "core")
        size = random.randint(max(2, len(everyone) // 2), len(everyone))
        core = [random.choice(everyone)]
        while len(core) < size:
            inside = set(core)
            edges = [e for e in self.network.edges if (e[0] in inside) is not (e[1] in inside)]
            a, b = random.choice(edges)
            core.append(b if a in core else a)
        return sorted(core, key=everyone.index)

    def _faults(self, ms: float) -> None:
        self.workload.start()
        self.adversary.start()
        for _ in range(LOOKS // 2):
            self.network.run(ms / (LOOKS // 2))
            for name in self.network.devices:
                self.memory.look(name)
        self.adversary.stop()
        self.workload.stop()

    def _converge(self, core: list[str], when: str) -> None:
        """Mend, wait until nothing is missing, and judge."""
        network = self.network
        self.adversary.mend(core)
        self.retained.expect(core)
        began_ns = network.now_ns
        missing = self.loss.missing(core)
        while network.now_ns - began_ns < CONVERGE_MS * MS:
            network.run(POLL_MS)
            missing = self.loss.still_missing(missing, core) or self.loss.missing(core)
            if not missing and not self.retained.differing(core):
                break
        self.converged_ms.append((network.now_ns - began_ns) // MS)
        self.adversary.diary.append((network.now_ns // MS, f"end of the {when}"))
        self.loss.finish(core)
        self.retained.finish(core)

    def _result(self, core: list[str]) -> Result:
        network = self.network
        self.sometimes.finish()
        self.sometimes.counts["refused"] += self.workload.refused
        messages = self.ledger.messages
        result = Result(self.options, self.mix)
        result.timeline = network.timeline()
        result.violations = sorted(row for checker in self.checkers for row in checker.violations)
        result.diary = self.adversary.diary
        result.counts = {k: v for k, v in sorted(self.sometimes.counts.items()) if v}
        result.stable_ms = self.stable.quantiles_ms(core)
        result.figures = {
            "published": len(messages),
            "acknowledged": sum(message.acknowledged for message in messages),
            "frames": network.frames,
            "frame_bytes": network.frame_bytes,
            "core": len(core),
            "converged_ms": self.converged_ms,
            "virtual_ms": network.now_ns // MS,
        }
        return result
