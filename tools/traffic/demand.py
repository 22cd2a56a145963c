"""Who drives where and when: random trips between border points, rising and falling with time.

Each border point sends vehicles by a Poisson process. Its rate has a base of its own (some roads
are main roads), swings slowly, and swells now and then for a few minutes (a shift that ends, a
ferry that lands). Most vehicles cross the city on one road, the others go to any border point by
the shortest way under randomly perturbed lengths, so that drivers between the same points differ.

Everything follows from the seed. The level is near, but below, the point where the grid locks.
"""

import heapq
import itertools
import math
import random
from dataclasses import dataclass
from pathlib import Path

from tools.traffic.network import Network, edge_name

BASE_PER_HOUR = (300.0, 640.0)  # lowest and highest base rate of a border point
SWING = 0.35  # depth of the slow swing
SWING_PERIOD_S = (500.0, 1100.0)
SURGE_FACTOR = 1.9
SURGE_LENGTH_S = (90.0, 240.0)
SURGE_GAP_S = 900.0  # mean time between two surges of one border point
RATE_MAX_PER_HOUR = 1500.0
STRAIGHT = 0.6  # share of vehicles that cross the city on one road
WAY_NOISE = 0.2  # how much drivers disagree about a road's length

TYPES = """
<vType id="car" vClass="passenger" sigma="0.5" speedFactor="normc(1.0,0.1,0.7,1.3)" minGap="2.5"/>
<vType id="van" vClass="delivery" sigma="0.6" speedFactor="normc(0.93,0.1,0.7,1.2)"/>
<vType id="bus" vClass="bus" sigma="0.4" speedFactor="normc(0.88,0.05,0.7,1.0)"/>
"""
TYPE_SHARES = (("car", 0.9), ("van", 0.08), ("bus", 0.02))


@dataclass(frozen=True)
class Source:
    """One border point's rate over time."""

    name: str
    base_per_hour: float
    period_s: float
    shift: float
    surges_s: tuple[tuple[float, float], ...]

    def rate_per_s(self, at_s: float) -> float:
        """Vehicles per second that set out at that time."""
        rate = self.base_per_hour
        rate *= 1.0 + SWING * math.sin(2 * math.pi * at_s / self.period_s + self.shift)
        if any(start <= at_s < end for start, end in self.surges_s):
            rate *= SURGE_FACTOR
        return min(rate, RATE_MAX_PER_HOUR) / 3600.0


def write_routes(network: Network, seed: int, seconds: int, folder: Path) -> Path:
    """Writes the trips of one run as SUMO's `rou.xml`.

    Args:
        network: The grid.
        seed: The same seed gives the same file.
        seconds: Length of the run in simulated seconds.
        folder: Existing folder.

    Returns:
        Path of the file.
    """
    rng = random.Random(seed)
    sources = [_source(name, seconds, rng) for name in network.borders]
    departures = sorted(
        (at_s, source.name) for source in sources for at_s in _arrivals(source, seconds, rng)
    )
    rows = []
    for number, (at_s, start) in enumerate(departures):
        edges = " ".join(_way(network, start, _destination(network, start, rng), rng))
        kind = rng.choices([name for name, _ in TYPE_SHARES], [share for _, share in TYPE_SHARES])[
            0
        ]
        rows.append(
            f'<vehicle id="veh{number}" type="{kind}" depart="{at_s:.2f}" '
            f'departLane="best" departSpeed="desired"><route edges="{edges}"/></vehicle>'
        )
    path = folder / "grid.rou.xml"
    path.write_text("<routes>" + TYPES + "\n".join(rows) + "\n</routes>\n", encoding="utf-8")
    return path


def _source(name: str, seconds: int, rng: random.Random) -> Source:
    surges = []
    at_s = rng.expovariate(1.0 / SURGE_GAP_S)
    while at_s < seconds:
        length_s = rng.uniform(*SURGE_LENGTH_S)
        surges.append((at_s, at_s + length_s))
        at_s += length_s + rng.expovariate(1.0 / SURGE_GAP_S)
    return Source(
        name=name,
        base_per_hour=rng.uniform(*BASE_PER_HOUR),
        period_s=rng.uniform(*SWING_PERIOD_S),
        shift=rng.uniform(0.0, 2 * math.pi),
        surges_s=tuple(surges),
    )


def _arrivals(source: Source, seconds: int, rng: random.Random) -> list[float]:
    """Poisson arrivals with a varying rate, by thinning."""
    highest = RATE_MAX_PER_HOUR / 3600.0
    arrivals = []
    at_s = rng.expovariate(highest)
    while at_s < seconds:
        if rng.random() < source.rate_per_s(at_s) / highest:
            arrivals.append(at_s)
        at_s += rng.expovariate(highest)
    return arrivals


def _destination(network: Network, start: str, rng: random.Random) -> str:
    """Draws where a vehicle leaves: straight ahead, or anywhere, seldom on its own side."""
    opposite = {"n": "s", "s": "n", "e": "w", "w": "e"}
    _, side, line = start.split("-")
    straight = f"b-{opposite[side]}-{line}"
    if rng.random() < STRAIGHT:
        return straight
    names = [name for name in network.borders if name != start]
    weights = [0.3 if name.split("-")[1] == side else 1.0 for name in names]
    return rng.choices(names, weights)[0]


def _way(network: Network, start: str, end: str, rng: random.Random) -> list[str]:
    """Shortest way under perturbed lengths, as edge names; no turning back."""
    best: dict[str, float] = {start: 0.0}
    before: dict[str, str] = {}
    heap = [(0.0, start)]
    noise: dict[tuple[str, str], float] = {}
    while heap:
        cost, here = heapq.heappop(heap)
        if here == end:
            break
        if cost > best[here]:
            continue
        for other in _next_nodes(network, here):
            if other != end and not network.nodes[other].is_junction:
                continue
            factor = noise.setdefault((here, other), rng.uniform(1 - WAY_NOISE, 1 + WAY_NOISE))
            new_cost = cost + network.length_m(here, other) * factor
            if new_cost < best.get(other, math.inf):
                best[other] = new_cost
                before[other] = here
                heapq.heappush(heap, (new_cost, other))
    nodes = [end]
    while nodes[-1] != start:
        nodes.append(before[nodes[-1]])
    nodes.reverse()
    return [edge_name(a, b) for a, b in itertools.pairwise(nodes)]


def _next_nodes(network: Network, here: str) -> list[str]:
    if here in network.neighbours:
        return [network.neighbours[here][side] for side in "nesw"]
    return [name for name in network.junctions if here in network.neighbours[name].values()]
