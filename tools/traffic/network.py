"""The road network: a 3 x 3 grid of signalised junctions, written as SUMO plain XML.

Decides geometry and signals. Links are 350 to 400 m long, so that a vehicle released by one
junction reaches the next one's queue 22 to 28 s later: inside the forecast's horizon of 30 s, but
outside of the camera's range at the moment of forecasting. Signals are fixed-time and not
coordinated: each junction has greens of its own, drawn from the seed, so cycles drift against each
other and a junction cannot guess its neighbours' state from its own.

Assumes `netconvert` from the `eclipse-sumo` package; fails with `FileNotFoundError` without it.

Axes: x grows to the east with the first number of `j-x-y`, y grows to the north with the second.
Approach order is always north, east, south, west: the side from which vehicles come.
"""

import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import sumo

SIDES = ("n", "e", "s", "w")
STEPS = {"n": (0, 1), "e": (1, 0), "s": (0, -1), "w": (-1, 0)}

# Uneven on purpose: four different link lengths, so one travel time does not fit all.
COLUMNS_M = (0.0, 380.0, 730.0)
ROWS_M = (0.0, 400.0, 765.0)
BORDER_M = 360.0

LANES = 2
SPEED_LIMIT_MPS = 13.9
GREEN_S = (20, 30)  # shortest and longest green of a direction
YELLOW_S = 4


@dataclass(frozen=True)
class Node:
    """A junction, or a border point where vehicles appear and leave."""

    name: str
    x_m: float
    y_m: float
    is_junction: bool


@dataclass(frozen=True)
class Network:
    """The grid as a graph.

    Attributes:
        nodes: Junctions and border points by name.
        neighbours: For each junction, the node on each side (`n`, `e`, `s`, `w`).
    """

    nodes: dict[str, Node]
    neighbours: dict[str, dict[str, str]]

    @property
    def junctions(self) -> list[str]:
        """Names of the signalised junctions, sorted."""
        return sorted(name for name, node in self.nodes.items() if node.is_junction)

    @property
    def borders(self) -> list[str]:
        """Names of the border points, sorted."""
        return sorted(name for name, node in self.nodes.items() if not node.is_junction)

    def length_m(self, start: str, end: str) -> float:
        """Distance between two nodes' centres, in metres."""
        a, b = self.nodes[start], self.nodes[end]
        return abs(a.x_m - b.x_m) + abs(a.y_m - b.y_m)


def edge_name(start: str, end: str) -> str:
    """Name of the one-way road from one node to the next."""
    return f"{start}_{end}"


def grid() -> Network:
    """Builds the 3 x 3 grid with twelve border points."""
    nodes: dict[str, Node] = {}
    neighbours: dict[str, dict[str, str]] = {}
    for column, x_m in enumerate(COLUMNS_M):
        for row, y_m in enumerate(ROWS_M):
            name = f"j-{column}-{row}"
            nodes[name] = Node(name, x_m, y_m, is_junction=True)
            neighbours[name] = {}
    for name in sorted(neighbours):
        column, row = (int(part) for part in name.split("-")[1:])
        for side in SIDES:
            dx, dy = STEPS[side]
            other = f"j-{column + dx}-{row + dy}"
            if other not in nodes:
                other = f"b-{side}-{column if dx == 0 else row}"
                here = nodes[name]
                x_m, y_m = here.x_m + dx * BORDER_M, here.y_m + dy * BORDER_M
                nodes[other] = Node(other, x_m, y_m, is_junction=False)
            neighbours[name][side] = other
    return Network(nodes, neighbours)


def write_net(network: Network, folder: Path) -> Path:
    """Writes the network as SUMO's `net.xml`.

    Args:
        network: The grid.
        folder: Existing folder for the plain XML and the result.

    Returns:
        Path of the compiled network.

    Raises:
        FileNotFoundError: `netconvert` is not installed.
        subprocess.CalledProcessError: It refused the network.
    """
    (folder / "grid.nod.xml").write_text(_nodes_xml(network), encoding="utf-8")
    (folder / "grid.edg.xml").write_text(_edges_xml(network), encoding="utf-8")
    net_path = folder / "grid.net.xml"
    command = [
        str(Path(sumo.SUMO_HOME) / "bin" / "netconvert"),
        "--node-files=grid.nod.xml",
        "--edge-files=grid.edg.xml",
        f"--output-file={net_path.name}",
        "--no-turnarounds=true",
        "--tls.default-type=static",
        "--tls.layout=opposites",
        "--tls.left-green.time=0",
        f"--tls.yellow.time={YELLOW_S}",
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return net_path


def signal_plans(network: Network, seed: int) -> dict[str, tuple[int, int, int, int]]:
    """Draws each junction's phase lengths in seconds: green, yellow, the other green, yellow."""
    rng = random.Random(f"signals {seed}")
    return {
        name: (rng.randint(*GREEN_S), YELLOW_S, rng.randint(*GREEN_S), YELLOW_S)
        for name in network.junctions
    }


def describe(network: Network) -> list[dict[str, object]]:
    """Returns the junctions as they stand in `network.json`.

    A border approach has `upstream` null: nobody watches the road's other end.
    """
    described: list[dict[str, object]] = []
    for name in network.junctions:
        approaches = []
        for side in SIDES:
            other = network.neighbours[name][side]
            approaches.append(
                {
                    "name": side,
                    "upstream": other if network.nodes[other].is_junction else None,
                    "length_m": network.length_m(other, name),
                }
            )
        node = network.nodes[name]
        described.append({"id": name, "x_m": node.x_m, "y_m": node.y_m, "approaches": approaches})
    return described


def _nodes_xml(network: Network) -> str:
    rows = [
        f"<node id={quoteattr(node.name)} x='{node.x_m}' y='{node.y_m}' "
        f"type='{'traffic_light' if node.is_junction else 'dead_end'}'/>"
        for _, node in sorted(network.nodes.items())
    ]
    return "<nodes>\n" + "\n".join(rows) + "\n</nodes>\n"


def _edges_xml(network: Network) -> str:
    pairs: set[tuple[str, str]] = set()
    for name in network.junctions:
        for other in network.neighbours[name].values():
            pairs |= {(name, other), (other, name)}
    rows = [
        f"<edge id={quoteattr(edge_name(start, end))} from={quoteattr(start)} "
        f"to={quoteattr(end)} numLanes='{LANES}' speed='{SPEED_LIMIT_MPS}'/>"
        for start, end in sorted(pairs)
    ]
    return "<edges>\n" + "\n".join(rows) + "\n</edges>\n"
