"""Runs SUMO without a screen and notes, once a second, what each junction's camera would see.

A camera sees `CAMERA_RANGE_M` up each approach, measured from the stop line. Per approach it counts
the vehicles and the standing ones, takes their mean speed, and lists those which have been
standing long enough to be an obstacle rather than a vehicle that brakes. It does not see beyond
its range, nor where a vehicle is going.

The same seed gives the same bytes with the same version of SUMO: one thread, fixed step, no time
stamp in the gzip header.
"""

import gzip
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libsumo

from tools.traffic.demand import write_routes
from tools.traffic.network import SIDES, Network, describe, edge_name, grid, signal_plans, write_net

CAMERA_RANGE_M = 100.0
STANDING_BELOW_MPS = 0.5
OBSTACLE_AFTER_S = 5
WARM_UP_S = 600
FREE_SPEED_MPS = 13.9  # reported as mean speed where there is no vehicle


@dataclass(frozen=True)
class Sight:
    """What one camera sees in one second; lists are by approach: north, east, south, west.

    Attributes:
        phase: 0 north-south green, 1 north-south clearing, 2 east-west green, 3 clearing.
        standing: Vehicles slower than `STANDING_BELOW_MPS`.
        vehicles: All vehicles in range.
        speed_mps: Their mean speed; the free speed where there is none.
        stopped: (vehicle, approach index, metres to the stop line) of those standing for at
            least `OBSTACLE_AFTER_S`.
    """

    phase: int
    standing: list[int]
    vehicles: list[int]
    speed_mps: list[float]
    stopped: list[tuple[str, int, float]]

    def as_json(self, at_s: int) -> str:
        """One line of the trace, without the line's end."""
        return json.dumps(
            {
                "t_s": at_s,
                "phase": self.phase,
                "standing": self.standing,
                "vehicles": self.vehicles,
                "speed_mps": self.speed_mps,
                "stopped": self.stopped,
            },
            separators=(",", ":"),
        )


class Camera:
    """One junction's camera and signal head, read from the running simulation."""

    def __init__(self, network: Network, junction: str) -> None:
        self.junction = junction
        self._edges = [edge_name(network.neighbours[junction][side], junction) for side in SIDES]
        self._lengths_m = {edge: libsumo.lane.getLength(f"{edge}_0") for edge in self._edges}
        self._standing_since: dict[str, int] = {}
        self._north_south = [
            index
            for index, links in enumerate(libsumo.trafficlight.getControlledLinks(junction))
            if links and links[0][0].rsplit("_", 1)[0] in {self._edges[0], self._edges[2]}
        ]

    def look(self, now_s: int) -> Sight:
        """Reads this second's state."""
        standing, vehicles, speeds = [], [], []
        stopped: list[tuple[str, int, float]] = []
        still: dict[str, int] = {}
        for approach, edge in enumerate(self._edges):
            seen_mps = []
            for vehicle in sorted(libsumo.edge.getLastStepVehicleIDs(edge)):
                to_line_m = self._lengths_m[edge] - libsumo.vehicle.getLanePosition(vehicle)
                if to_line_m > CAMERA_RANGE_M:
                    continue
                speed_mps = libsumo.vehicle.getSpeed(vehicle)
                seen_mps.append(speed_mps)
                if speed_mps < STANDING_BELOW_MPS:
                    since_s = self._standing_since.get(vehicle, now_s)
                    still[vehicle] = since_s
                    if now_s - since_s >= OBSTACLE_AFTER_S:
                        stopped.append((vehicle, approach, round(to_line_m, 1)))
            standing.append(sum(speed < STANDING_BELOW_MPS for speed in seen_mps))
            vehicles.append(len(seen_mps))
            mean_mps = sum(seen_mps) / len(seen_mps) if seen_mps else FREE_SPEED_MPS
            speeds.append(round(mean_mps, 1))
        self._standing_since = still
        return Sight(self._phase(), standing, vehicles, speeds, stopped)

    def _phase(self) -> int:
        state = libsumo.trafficlight.getRedYellowGreenState(self.junction)
        north_south = {state[index].lower() for index in self._north_south}
        east_west = {
            light.lower() for index, light in enumerate(state) if index not in self._north_south
        }
        if "g" in north_south:
            return 0
        if "y" in north_south:
            return 1
        return 2 if "g" in east_west else 3


def run(seed: int, seconds: int) -> Iterator[tuple[int, dict[str, Sight]]]:
    """Simulates one city and yields every second after the warm-up.

    Args:
        seed: Of demand and of the drivers.
        seconds: Seconds to yield.

    Yields:
        The second, from 0, and what each junction's camera sees.
    """
    network = grid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net_path = write_net(network, folder)
        route_path = write_routes(network, seed, WARM_UP_S + seconds, folder)
        options = {
            "--net-file": str(net_path),
            "--route-files": str(route_path),
            "--seed": str(seed),
            "--step-length": "1",
            "--no-step-log": "true",
            "--no-warnings": "true",
            "--time-to-teleport": "300",
        }
        libsumo.start(["sumo", *(part for pair in options.items() for part in pair)])
        try:
            _set_signals(network, seed)
            cameras = [Camera(network, junction) for junction in network.junctions]
            for step in range(WARM_UP_S + seconds):
                libsumo.simulationStep()
                sights = {camera.junction: camera.look(step) for camera in cameras}
                if step >= WARM_UP_S:
                    yield step - WARM_UP_S, sights
        finally:
            libsumo.close()


def _set_signals(network: Network, seed: int) -> None:
    """Replaces the compiler's signal plans, all alike, by each junction's own."""
    for junction, lengths_s in signal_plans(network, seed).items():
        plan = libsumo.trafficlight.getAllProgramLogics(junction)[0]
        phases = [
            libsumo.trafficlight.Phase(length_s, phase.state)
            for length_s, phase in zip(lengths_s, plan.phases, strict=True)
        ]
        own = libsumo.trafficlight.Logic("own", 0, 0, phases)
        libsumo.trafficlight.setProgramLogic(junction, own)


def record(seed: int, seconds: int, folder: Path) -> None:
    """Writes `network.json` and one `{junction}.jsonl.gz` per junction.

    Args:
        seed: Of demand and of the drivers.
        seconds: Length of the trace.
        folder: Made if it is missing; files in it are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for at_s, sights in run(seed, seconds):
        for junction, sight in sights.items():
            lines.setdefault(junction, []).append(sight.as_json(at_s))
    for junction, rows in lines.items():
        text = ("\n".join(rows) + "\n").encode()
        (folder / f"{junction}.jsonl.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    described = {
        "version": 1,
        "seed": seed,
        "sumo_version": libsumo.getVersion()[1],
        "junctions": describe(grid()),
        "seconds": seconds,
    }
    text = json.dumps(described, indent=1) + "\n"
    (folder / "network.json").write_text(text, encoding="utf-8")
