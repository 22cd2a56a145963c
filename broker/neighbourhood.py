"""Who is known around this device, and which of them it dials: finds, measures, chooses, and tells the node.

Joins three things that decide by themselves: the address book (`address_book.py`), fed by the configuration, by seeds
and by mDNS; the topology (`topology.py`), which chooses names; and the node, which dials and lets go. Adds what the
topology cannot know: a device counts as away once it has been dialled for AWAY_S in vain, and as heard of while the
mesh has brought something of its own within HEARD_S.

A seed tells its name when it is asked (`introduction.py`). So is, in a `nearest` topology, one after another of those
without a link, since only links know their round trip by themselves. Nothing here fails: what is wrong stands in the
report, and is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from broker.address_book import AddressBook, Source
from broker.introduction import Unanswered, ask
from broker.link import Neighbour
from broker.tasks import begin
from broker.topology import Candidate, Topology

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from broker.address_book import Entry
    from broker.discovery import Mdns
    from broker.node import Delivered, Node
    from broker.topology import Kind
    from broker.trust import Trust

__all__ = ["Neighbourhood", "Settings"]

CHOOSE_S: Final = 1.0
"""How often it is chosen anew when nothing happens: patience below is counted in seconds."""
CHOOSE_S_MIN: Final = 0.1
"""The shortest while between two choices, however much happens."""
AWAY_S: Final = 3.0
"""Dialled for so long in vain, a device counts as away, and another takes its place beside it. Guess."""
AWAY_FORGET_S: Final = 60.0
"""A device that is away and not dialled any more is worth a try after this long. Guess."""
HEARD_S: Final = 5.0
"""A device on the mesh speaks once a second (its heartbeat); five in a row are not lost by chance."""
SEED_AGAIN_S: Final = 2.0
"""Between questions to a seed that does not answer; up to a quarter less, by chance."""
SEED_CHECK_S: Final = 60.0
"""Between questions to one that has: who listens there may change."""
MEASURE_S: Final = 1.0
"""Between questions to devices without a link."""
MEASURE_AGAIN_S: Final = 300.0
"""A round trip is measured anew after this long; each costs a connection and about 1 KB."""


class Settings(NamedTuple):
    """What the configuration says."""

    site: str
    kind: Kind
    near: int = 3
    far: int = 2
    configured: Sequence[Neighbour] = ()
    seeds: Sequence[tuple[str, int]] = ()
    mdns: bool = False


class Neighbourhood:
    """Keeps the links of one device.

    Args:
        node: The node; started before `start`.
        settings: What the configuration says.
        host: Address that the node's broker listens on for neighbours.
        trust: Who is believed, where links are TLS; None: plain MQTT.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        host: str,
        trust: Trust | None = None,
    ) -> None:
        self._trust = trust
        self._node = node
        self._settings = settings
        self._host = host
        self._random = Random()  # noqa: S311 - far links and jitter, nothing secret
        self._topology = Topology(
            node.device, settings.kind, self._random, near=settings.near, far=settings.far
        )
        self._book = AddressBook(node.device)
        self._dialled: dict[str, Neighbour] = {}
        self._heard_s: dict[str, float] = {}
        self._seeds: dict[tuple[str, int], str] = {}
        """By seed: what came of asking it."""
        self._mdns: Mdns | None = None
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        for neighbour in settings.configured:
            self._book.learn(neighbour, Source.CONFIGURED, time.monotonic())

    # Life.

    async def start(self) -> None:
        """Dial whom the configuration names, and look for others."""
        self._choose()
        if self._settings.kind == "static":
            return
        self._node.watch_links(self._link)
        self._node.subscribe(self._hear)
        self._spawn(self._keep_choosing(), "choice")
        for seed in self._settings.seeds:
            self._spawn(self._keep_asking(seed), f"seed {seed[0]}")
        if self._settings.kind == "nearest":
            self._spawn(self._keep_measuring(), "round trips")
        if self._settings.mdns:
            self._spawn(self._start_mdns(), "mdns")

    async def stop(self) -> None:
        """Look for nobody any more, and say goodbye; the node closes the links."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def report(self) -> dict[str, Any]:
        """What there is to say to people."""
        settings = self._settings
        topology: dict[str, Any] = {"kind": settings.kind}
        if settings.kind == "nearest":
            topology |= {"near": settings.near, "far": settings.far}
        mdns = self._mdns
        return {
            "topology": topology,
            "known": {
                entry.neighbour.name: {
                    "from": entry.source.name.lower(),
                    "where": f"{entry.neighbour.host}:{entry.neighbour.port}",
                    "dialled": entry.neighbour.name in self._dialled,
                    "rtt_ms": None if entry.rtt_ms is None else round(entry.rtt_ms, 2),
                }
                for entry in self._book
            },
            "discovery": {
                "mdns": (mdns.problem or "on") if mdns else "off",
                "malformed": mdns.malformed if mdns else 0,
                "last_malformed": mdns.last_malformed if mdns else "",
                "passed_over": mdns.passed_over if mdns else 0,
                "no_room": self._book.refused + self._book.evicted,
                "seeds": {f"{host}:{port}": said for (host, port), said in self._seeds.items()},
            },
        }

    # What comes in.

    def _link(self, peer: str, up: bool) -> None:  # noqa: FBT001 - called by the node
        entry = self._book.get(peer)
        if entry is not None and up:
            entry.answered = True
            entry.away_until_s = 0.0
        self._news.set()

    def _hear(self, batch: list[Delivered]) -> None:
        """All of a batch is of one origin; what a neighbour only remembers of it is no sign of life."""
        first = batch[0]
        if not first.rebuild:
            self._heard_s[first.origin] = time.monotonic()

    def _found(self, neighbour: Neighbour) -> None:
        self._learn(neighbour, Source.MDNS)

    def _lost(self, device: str) -> None:
        self._book.withdraw(device, Source.MDNS)
        self._news.set()

    def _learn(self, neighbour: Neighbour, source: Source) -> Entry | None:
        news = self._book.learn(neighbour, source, time.monotonic())
        if news is not None:
            self._news.set()
        self._node.links.wake(neighbour.name)
        return news

    # What goes on.

    async def _keep_choosing(self) -> None:
        while True:
            self._choose()
            await asyncio.sleep(CHOOSE_S_MIN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHOOSE_S):
                    await self._news.wait()
            self._news.clear()

    async def _keep_asking(self, seed: tuple[str, int]) -> None:
        host, port = seed
        name = ""
        while True:
            pause_s = SEED_AGAIN_S
            try:
                answer = await ask(host, port, self._settings.site, self._trust)
            except Unanswered as error:
                self._seeds[seed] = str(error)
            else:
                pause_s = SEED_CHECK_S
                device = answer.introduction.device
                if name not in {"", device}:
                    self._book.withdraw(name, Source.SEED)
                name = device
                own = device == self._node.device
                self._seeds[seed] = "this device itself" if own else device
                self._learn(Neighbour(device, host, port), Source.SEED)
                self._measured(device, answer.rtt_ms)
            await asyncio.sleep(pause_s * (1 - self._random.random() / 4))

    async def _keep_measuring(self) -> None:
        while True:
            entry = self._to_measure()
            if entry is None:
                await asyncio.sleep(MEASURE_S)
                continue
            entry.measured_s = time.monotonic()
            rtt_ms = await self._round_trip_ms(entry.neighbour)
            if rtt_ms is None:
                entry.away_until_s = time.monotonic() + AWAY_FORGET_S
            else:
                self._measured(entry.neighbour.name, rtt_ms)
            self._news.set()

    async def _round_trip_ms(self, neighbour: Neighbour) -> float | None:
        """None if nobody answers there, or somebody else does."""
        name, host, port = neighbour
        try:
            answer = await ask(host, port, self._settings.site, self._trust)
        except Unanswered:
            return None
        return answer.rtt_ms if answer.introduction.device == name else None

    def _to_measure(self) -> Entry | None:
        """Who was never asked, or not for long; none of those with a link, or away."""
        now_s = time.monotonic()
        linked = self._linked()
        due = [
            entry
            for entry in self._book
            if entry.neighbour.name not in linked and entry.away_until_s <= now_s
            if entry.measured_s is None or now_s - entry.measured_s >= MEASURE_AGAIN_S
        ]
        return min(due, key=lambda entry: entry.measured_s or 0.0, default=None)

    def _measured(self, name: str, rtt_ms: float) -> None:
        entry = self._book.get(name)
        if entry is not None:
            entry.answered = True
            entry.rtt_ms = rtt_ms
            entry.measured_s = time.monotonic()

    async def _start_mdns(self) -> None:
        from broker.discovery import Mdns, Own  # noqa: PLC0415 - 5 MB that few devices need

        node = self._node
        own = Own(node.device, self._settings.site, node.incarnation, self._host, node.link_port)
        self._mdns = Mdns(own, self._found, self._lost)
        await self._mdns.run()

    # The choice.

    def _choose(self) -> None:
        links = self._linked()
        for entry in self._book:
            if entry.gone and entry.neighbour.name not in links:
                self._book.forget(entry.neighbour.name)
        candidates = [self._candidate(entry, links) for entry in self._book]
        chosen = self._topology.choose(candidates, links.keys(), time.monotonic_ns())
        for name in self._dialled.keys() - chosen:
            del self._dialled[name]
            self._node.links.undial(name)
        for entry in self._book:
            name = entry.neighbour.name
            if name in chosen and self._dialled.get(name) != entry.neighbour:
                self._dialled[name] = entry.neighbour
                self._node.dial(entry.neighbour)
        self._heard_s = {n: s for n, s in self._heard_s.items() if self._book.get(n) is not None}

    def _candidate(self, entry: Entry, links: dict[str, float | None]) -> Candidate:
        name = entry.neighbour.name
        now_s = time.monotonic()
        if name in links:
            entry.rtt_ms = links[name] or entry.rtt_ms
            return Candidate(name, entry.rtt_ms)
        if self._node.links.absent_s(name) >= AWAY_S:
            entry.away_until_s = now_s + AWAY_FORGET_S
        heard_s = self._heard_s.get(name, entry.known_s)
        return Candidate(name, entry.rtt_ms, entry.away_until_s > now_s, now_s - heard_s < HEARD_S)

    def _linked(self) -> dict[str, float | None]:
        """By device that there is a link to: its round trip in milliseconds."""
        return {peer.name: peer.rtt_ms for peer in self._node.statistics().mesh.peers}

    def _spawn(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(begin(coroutine, f"{self._node.device} {name}"))
