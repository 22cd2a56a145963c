"""Whom a device dials, of those that it knows: `static`, `ring`, `full` or `nearest`.

Decides names only; who is known, and from where, is the business of `neighbourhood.py`. Sans-I/O: time and chance are
passed in. All devices that are known stand on one circle, by name. What keeps the graph whole:

- Whatever the kind, a device dials its next one on the circle, and beyond those that do not answer the next that does.
  So when everybody knows everybody alive, the links contain a ring.
- Where views differ, a device dials one at a time of those that it knows and does not hear of through the mesh, and
  keeps that link, since nothing else may hold the two parts together. So parts of which one knows a device of the
  other grow together. (A link that holds them together and was dialled for another reason may be let go once; then it
  is missed, dialled again, and kept.)
- A link is let go only when every link that is wanted is up, and RELEASE_MS later, one at a time. By then the links of
  newcomers, which a ring was opened for, are up too.
- Whom a cut took away is dialled on, beside those that replace it: links are back as soon as the network is.

Assumes that ids are unique. Where two devices cannot reach each other at all, the next one on the circle takes the
place; where nobody of a part can reach anybody of another, no choice helps. Sources: Chord (successor lists), HyParView
(few near links, some random ones), Kleinberg's small worlds (why long links shorten paths).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias

from broker.mesh.limits import MS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["FAR_MAX", "NEAR_MAX", "Candidate", "Kind", "Topology"]

Kind: TypeAlias = Literal["static", "ring", "full", "nearest"]

NEAR_MAX: Final = 16
"""Largest `near`; with FAR_MAX and what others dial it stays below the 64 links of a device."""
FAR_MAX: Final = 8
"""Largest `far`."""
FULL_MAX: Final = 32
"""`full` dials so many next ones on the circle, and so many others dial this device: 64 links, as many as it takes. Up
to 33 devices the graph is complete."""
AWAY_ON_CIRCLE_MAX: Final = 3
"""Next ones on the circle that are dialled although they do not answer. Guess."""
AWAY_KEPT_MAX: Final = 8
"""Others that were dialled when they went away and are dialled on: the links of one device, so that a cut that heals
brings them all back. Each costs a SYN every 0.4 s, later every 5 s (broker/dialler.py)."""
MENDS_MAX: Final = 8
"""Links of this kind that a device keeps; past them the oldest may be let go, and be mended again. Guess."""
RELEASE_MS: Final = 30_000
"""How long a link is unwanted before it is let go: several times what a newcomer needs for its own links. Guess."""
UNWANTED_MAX: Final = 8
"""More unwanted links than these are let go without that wait, as soon as all wanted ones are up."""
NEARER_FACTOR: Final = 0.8
NEARER_MS: Final = 1.0
"""Another device must be nearer by a fifth and by a millisecond to take the place of a near link: jitter of a LAN must
not move links. Guess."""


class Chance(Protocol):
    """The source of chance, `random.Random(seed)`."""

    def random(self) -> float:
        """From 0 up to 1."""

    def choice(self, names: Sequence[str], /) -> str:
        """One of them."""


class Candidate(NamedTuple):
    """A device that could be dialled."""

    name: str
    rtt_ms: float | None = None
    """Round trip; None: not measured yet."""
    away: bool = False
    """It was dialled, or known by an address, and has not answered for a while."""
    heard: bool = True
    """What it says comes here through the mesh, or it has had no time to say anything yet."""


class Topology:
    """The choice of one device.

    Links that a device wants: 2 in `ring`, FULL_MAX in `full`, near + far + 1 in `nearest`; to that, where parts were
    mended, up to MENDS_MAX, and until they are let go UNWANTED_MAX + 1. Others dial as many, on average. What it dials
    in vain: AWAY_ON_CIRCLE_MAX (twice in `ring`) and AWAY_KEPT_MAX. `static` dials everybody known.

    Args:
        device: This device's id.
        kind: As in the configuration.
        chance: Which far links, and who of those not measured.
        near: Links to the nearest by round trip, in `nearest`.
        far: Links to others, chosen at random, in `nearest`.
    """

    def __init__(
        self, device: str, kind: Kind, chance: Chance, *, near: int = 3, far: int = 2
    ) -> None:
        self._device = device
        self._kind = kind
        self._chance = chance
        self._near = near
        self._far = far
        self._dialled: dict[str, int | None] = {}
        """Since when it is unwanted; None: it is wanted."""
        self._near_names: set[str] = set()
        self._far_names: list[str] = []
        self._mended: list[str] = []
        """Links that may hold two parts together, oldest first; the last may not be up yet."""
        self._order: dict[str, float] = {}
        """By candidate: its place among those not measured, so that they are not all dialled in the order of ids."""

    def choose(
        self, candidates: Iterable[Candidate], links: Collection[str], now_ns: int
    ) -> frozenset[str]:
        """Whom to dial from now on; a link to anybody else that was dialled from here is to be let go.

        Args:
            candidates: Everybody known, this device left out.
            links: Names of those that there is a link to, whoever dialled it.
            now_ns: Monotonic time; calls may come at any rate, and decide the same however often they come.
        """
        known = {candidate.name: candidate for candidate in candidates}
        circle = self._circle(known)
        if self._kind == "static":
            return frozenset(known)
        wanted = self._wanted(circle, links)
        self._update(wanted, known, links, now_ns)
        if all(name in links for name in wanted if not known[name].away):
            self._let_go(known, links, now_ns)
        return frozenset(self._dialled)

    def _circle(self, known: dict[str, Candidate]) -> list[Candidate]:
        """Everybody known, from the one after this device around to the one before it."""
        names = sorted(known)
        after = [name for name in names if name > self._device]
        return [known[name] for name in (*after, *names[: len(names) - len(after)])]

    def _wanted(self, circle: list[Candidate], links: Collection[str]) -> set[str]:
        wanted = _next_ones(circle, FULL_MAX if self._kind == "full" else 1)
        if self._kind == "ring":
            wanted |= _next_ones(circle[::-1], 1)
        live = [candidate for candidate in circle if not candidate.away]
        if self._kind == "nearest":
            near = self._nearest(live)
            wanted |= near | self._farther(live, wanted | near)
        return wanted | self._mend(live, wanted, links)

    def _nearest(self, live: list[Candidate]) -> set[str]:
        order = {c.name: self._order.get(c.name) or self._chance.random() for c in live}
        self._order = order

        def distance(candidate: Candidate) -> tuple[bool, float, float]:
            name, rtt_ms = candidate.name, candidate.rtt_ms
            has = name in self._near_names
            if rtt_ms is None:  # a link measures its own soon, and is not given up before
                return not has, 0.0, order[name]
            held = min(rtt_ms * NEARER_FACTOR, rtt_ms - NEARER_MS)
            return False, held if has else rtt_ms, order[name]

        self._near_names = {c.name for c in sorted(live, key=distance)[: self._near]}
        return self._near_names

    def _farther(self, live: list[Candidate], others: set[str]) -> set[str]:
        """The far links, which stay until their device goes away or is chosen for another reason."""
        pool = [candidate.name for candidate in live if candidate.name not in others]
        self._far_names = [name for name in self._far_names if name in pool]
        while len(self._far_names) < self._far:
            free = [name for name in pool if name not in self._far_names]
            if not free:
                break
            self._far_names.append(self._chance.choice(free))
        return set(self._far_names)

    def _mend(self, live: list[Candidate], wanted: set[str], links: Collection[str]) -> set[str]:
        """Those that were not heard of when they were dialled, and one more that is not."""
        live_names = {candidate.name for candidate in live}
        self._mended = [name for name in self._mended if name in live_names]
        if all(name in links for name in self._mended):
            taken = {*wanted, *links}
            unheard = [c.name for c in live if not c.heard and c.name not in taken]
            if unheard:
                self._mended.append(self._chance.choice(unheard))
                del self._mended[:-MENDS_MAX]
        return set(self._mended)

    def _update(
        self,
        wanted: set[str],
        known: dict[str, Candidate],
        links: Collection[str],
        now_ns: int,
    ) -> None:
        """Take up what is wanted, note since when the rest is not, and forget what there is nothing to let go of."""
        for name in wanted:
            self._dialled[name] = None
        for name, since_ns in list(self._dialled.items()):
            if name in wanted:
                continue
            candidate = known.get(name)
            if candidate is None or not (name in links or candidate.away):
                del self._dialled[name]
            elif since_ns is None:
                self._dialled[name] = now_ns
        kept = [n for n in self._dialled if n not in links and n not in wanted]
        kept.sort(key=lambda name: (-(self._dialled[name] or 0), name))
        for name in kept[AWAY_KEPT_MAX:]:
            del self._dialled[name]

    def _let_go(self, known: dict[str, Candidate], links: Collection[str], now_ns: int) -> None:
        """At most one link, the one that has been unwanted for longest; it stays unwanted after that."""
        waiting = [
            (since_ns, name)
            for name, since_ns in self._dialled.items()
            if since_ns is not None and name in known and name in links
        ]
        if not waiting:
            return
        since_ns, name = min(waiting)
        if now_ns - since_ns >= RELEASE_MS * MS or len(waiting) > UNWANTED_MAX:
            del self._dialled[name]


def _next_ones(circle: list[Candidate], count: int) -> set[str]:
    """The first `count` that answer, and the first AWAY_ON_CIRCLE_MAX before the last of them that do not."""
    live: list[str] = []
    away: list[str] = []
    for candidate in circle:
        (away if candidate.away else live).append(candidate.name)
        if len(live) == count:
            break
    return {*live, *away[:AWAY_ON_CIRCLE_MAX]}
