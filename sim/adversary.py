"""Brings the faults of a mix upon a network, takes them back, and makes them permanent.

Decides when and whom. Each kind of fault has a stream of chance of its own and comes at exponential intervals. What it
did stands in `diary`, which is the story of a run in plain words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.mesh.limits import DIGEST_MS, JOIN_WAIT_MS, MS
from sim.path import Conditions
from sim.randomness import stream
from sim.watcher import Death

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from sim.links import Edge
    from sim.mix import Mix
    from sim.network import Network

__all__ = ["Adversary"]

DIARY_MAX: Final = 2_000
"""Lines; a longer story is not read."""
DRIFT_MS: Final = 1_000
"""How often a drifting wall clock is looked at, as the node does."""
TRICKLES: Final = 0.5
"""Share of the clogged paths on which something still arrives now and then: no silence ends such a link."""
TRICKLE_FOR: Final = 3
"""They stay so for so many times as long, or nobody would be suspended."""
DAY_MS: Final = 24 * 3600 * 1000
"""Clocks go up to nine days ahead: one day more, and tombstones are forgotten, as they say."""


class Adversary:
    """The faults of one run."""

    def __init__(self, network: Network, mix: Mix, seed: int) -> None:
        self._network = network
        self._mix = mix
        self._seed = seed
        self._active = False
        self._drift_ppm: dict[str, int] = {}
        self._awaited: set[str] = set()
        self.diary: list[tuple[int, str]] = []
        self._prepare()
        scale = 1 + len(network.devices) / 100
        kinds: list[tuple[str, float, Callable[[Random], None]]] = [
            ("clog", mix.clogs_per_s, self._clog),
            ("partition", mix.partitions_per_s, self._partition),
            ("restart", mix.restarts_per_s, self._restart),
            ("clock", mix.clocks_per_s, self._clock),
        ]
        for kind, rate, strike in kinds:
            if rate:
                self._next((stream(seed, f"fault {kind}"), rate * scale, strike))
        self._clocks_from_ns = network.now_ns + (JOIN_WAIT_MS + DIGEST_MS) * MS
        """Not while all are newcomers: what they take for their past would come from the future."""

    def start(self) -> None:
        """Let faults come."""
        self._active = True

    def stop(self) -> None:
        """Let no more come; those that are stay."""
        self._active = False

    def mend(self, core: list[str]) -> None:
        """Take back what stands between these devices. Clocks stay wrong, and links through hubs stay what they are."""
        self.stop()
        network = self._network
        self._tell(f"mended: {', '.join(core) if len(core) < 20 else f'{len(core)} devices'}")
        for edge in self._edges(core):
            network.cut.discard(edge)
            for source, target in (edge, edge[::-1]):
                path = network.path(source, target)
                path.clogged_until_ns = path.trickle_until_ns = 0
                if path.blocked:
                    network.block(source, target, blocked=False)
        for name in core:
            network.devices[name].doomed, network.devices[name].forgetful = None, False
            if network.devices[name].mesh is None:
                network.restart(name)
        for edge in self._edges(core):
            network.connect(edge)

    def strand(self, core: list[str]) -> None:
        """Make the faults of all others permanent: their links fail, one way or both."""
        network = self._network
        random = stream(self._seed, "strand")
        inside = set(self._edges(core))
        for edge in network.edges:
            if edge in inside:
                continue
            draw = random.random()
            if draw < 0.4:
                self._block(edge, both=draw < 0.2)
            else:
                network.partition([edge])
        self._tell(f"stranded: all but {len(core)} devices")

    def _edges(self, core: list[str]) -> list[Edge]:
        chosen = set(core)
        return [edge for edge in self._network.edges if edge[0] in chosen and edge[1] in chosen]

    def _prepare(self) -> None:
        mix, network = self._mix, self._network
        random = stream(self._seed, "links")
        for edge in network.edges:
            hub = random.random() < mix.hubs
            for source, target in (edge, edge[::-1]):
                conditions = Conditions(
                    mix.latency_min_ms * random.random(), mix.latency_more_ms * random.random()
                )
                if mix.capacity_bytes:
                    conditions.capacity_bytes = mix.capacity_bytes
                if hub:
                    conditions.loss = mix.hub_loss
                    conditions.duplicate = mix.hub_duplicate
                    conditions.reorder = mix.hub_reorder
                network.path(source, target).conditions = conditions

    def _next(self, process: tuple[Random, float, Callable[[Random], None]]) -> None:
        random, rate, _ = process
        delay_ns = int(random.expovariate(rate) * 1000 * MS)
        self._network.at(self._network.now_ns + delay_ns, self._strike, process)

    def _strike(self, process: tuple[Random, float, Callable[[Random], None]]) -> None:
        if self._active:
            process[2](process[0])
        self._next(process)

    def _tell(self, text: str) -> None:
        if len(self.diary) < DIARY_MAX:
            self.diary.append((self._network.now_ns // MS, text))

    # Links.

    def _clog(self, random: Random) -> None:
        network = self._network
        edge = random.choice(network.edges)
        source, target = edge if random.random() < 0.5 else edge[::-1]
        ms = random.uniform(0, self._mix.clog_ms)
        if random.random() < TRICKLES:
            pause_ms, ms = random.uniform(100, 900), TRICKLE_FOR * ms
            until_ns = network.now_ns + int(ms * MS)
            network.trickle(source, target, until_ns, int(pause_ms * MS))
            how = f"gets a frame each {pause_ms:.0f} ms"
        else:
            network.clog(source, target, network.now_ns + int(ms * MS))
            how = "clogged"
        self._tell(f"{source} to {target} {how} for {ms:.0f} ms")

    def _partition(self, random: Random) -> None:
        network, mix = self._network, self._mix
        devices = list(network.devices)
        mode = random.random()
        if mode < 0.3:
            chosen = {random.choice(devices)}
        elif mode < 0.7:
            chosen = {name for name in devices if random.random() < 0.5}
        else:
            chosen = set()
        crossing = [
            edge for edge in network.edges if (edge[0] in chosen) is not (edge[1] in chosen)
        ]
        if mode >= 0.7:
            crossing = [edge for edge in network.edges if random.random() < 0.4]
        one_way = random.random() < mix.asymmetric
        silent = random.random() < mix.silent
        if one_way or silent:
            for edge in crossing:
                self._block(edge, both=not one_way)
        else:
            network.partition(crossing)
        ms = random.uniform(0.2, 1) * mix.partition_ms
        kind = "one way" if one_way else "silent" if silent else "cut"
        self._tell(f"partition ({kind}) for {ms:.0f} ms: {_listed(crossing)}")
        network.at(network.now_ns + int(ms * MS), self._rejoin, crossing)

    def _block(self, edge: Edge, *, both: bool) -> None:
        for source, target in (edge, edge[::-1])[: 1 + both]:
            self._network.block(source, target, blocked=True)

    def _rejoin(self, crossing: list[Edge]) -> None:
        if not self._active:
            return
        self._tell(f"partition over: {_listed(crossing)}")
        network = self._network
        for edge in crossing:
            network.cut.discard(edge)
            for source, target in (edge, edge[::-1]):
                if network.path(source, target).blocked:
                    network.block(source, target, blocked=False)
            network.connect(edge)

    # Devices.

    def _restart(self, random: Random) -> None:
        network, mix = self._network, self._mix
        name = random.choice(list(network.devices))
        draw, moment = random.random(), random.random()
        half_way, forgetful = moment < mix.half_way, moment < mix.half_way / 2
        how = (
            Death.DISK
            if draw < mix.disk
            else Death.POWER
            if draw < mix.disk + mix.power
            else Death.KILLED
        )
        down_ms = random.uniform(0.1, 1) * mix.down_ms
        device = network.devices[name]
        if device.mesh is None or name in self._awaited:
            return
        if half_way:
            device.doomed, device.forgetful = how, forgetful
        else:
            network.kill(name, how=how, silent=how is Death.POWER)
        self._tell(f"{name} dies ({how}{', half way' if half_way else ''}) for {down_ms:.0f} ms")
        self._awaited.add(name)
        network.at(network.now_ns + int(down_ms * MS), self._revive, name)

    def _revive(self, name: str) -> None:
        self._awaited.discard(name)
        device = self._network.devices[name]
        device.doomed, device.forgetful = None, False
        if self._active and device.mesh is None:
            self._tell(f"{name} boots")
            self._network.restart(name)

    def _clock(self, random: Random) -> None:
        network = self._network
        name = random.choice(list(network.devices))
        mode, synchronised = random.random(), random.random() < 0.5
        if network.now_ns < self._clocks_from_ns:
            return
        skew_ms = 0
        if mode < 0.3:
            skew_ms = random.randint(-5_000, 5_000)
        elif mode < 0.5:
            skew_ms = -53 * 365 * DAY_MS
            synchronised = False
        elif mode < 0.7:
            self._drift(name, random.randint(-200_000, 200_000))
        elif mode < 0.8:
            skew_ms = random.randint(0, 9) * DAY_MS
            synchronised = False
        else:
            self._drift_ppm.pop(name, None)
            synchronised = True
        network.set_wall_clock(name, skew_ms=skew_ms, synchronised=synchronised)
        self._tell(f"clock of {name} off by {skew_ms} ms, synchronised: {synchronised}")

    def _drift(self, name: str, ppm: int) -> None:
        if name not in self._drift_ppm:
            self._network.at(self._network.now_ns + DRIFT_MS * MS, self._drifted, name)
        self._drift_ppm[name] = ppm

    def _drifted(self, name: Any) -> None:
        ppm = self._drift_ppm.get(name)
        if ppm is None:
            return
        device = self._network.devices[name]
        skew_ms = device.wall_skew_ms + ppm * DRIFT_MS // 1_000_000
        self._network.set_wall_clock(name, skew_ms=skew_ms, synchronised=device.synchronised)
        self._network.at(self._network.now_ns + DRIFT_MS * MS, self._drifted, name)


def _listed(edges: list[Edge]) -> str:
    shown = ", ".join(f"{a}-{b}" for a, b in edges[:12])
    return shown + (f" and {len(edges) - 12} more" if len(edges) > 12 else "")
