"""Simulated cities as arrays: every junction's feature rows and what came of them.

Decides which seeds serve what, so that nothing is measured on what was trained on. The rows come
from `agent.infer.features`, the definition that the device uses. Simulated cities are kept in the
work folder, since everything follows from the seed.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent.infer.features import CHANNELS, HISTORY_S, HORIZON_S, Reading, fill_row

TRAIN_SEEDS = tuple(range(100, 124))
HELD_OUT_SEEDS = (910, 911, 912, 913, 914)
TRAIN_SECONDS = 3000
HELD_OUT_SECONDS = 2400

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class City:
    """One run of the city.

    Attributes:
        junctions: Their names, length J.
        upstream: Per junction, the junction upstream of each approach, None at the border.
        rows: Feature rows, shape (J, seconds, CHANNELS), float32; all neighbours known.
        standing: Vehicles standing, shape (J, seconds, 4), float32.
    """

    junctions: list[str]
    upstream: list[list[str | None]]
    rows: Array
    standing: Array

    @property
    def seconds(self) -> int:
        """Length of the run."""
        return self.rows.shape[1]


@dataclass(frozen=True)
class Series:
    """Cities stacked, to draw windows from.

    Attributes:
        rows: Shape (series, seconds, CHANNELS), float32.
        standing: Shape (series, seconds, 4), float32.
        index: (series, newest second) of each window, shape (windows, 2), int64.
    """

    rows: Array
    standing: Array
    index: npt.NDArray[np.int64]


def simulate(seed: int, seconds: int, work: Path) -> City:
    """Runs the simulator, or reads what it gave before.

    Args:
        seed: Of demand, signals and drivers.
        seconds: Length.
        work: Existing folder for the results.
    """
    from tools.traffic.network import SIDES, grid  # noqa: PLC0415 - needs SUMO
    from tools.traffic.record import run  # noqa: PLC0415 - so does this; a shipped trace is measured without it

    network = grid()
    upstream: list[list[str | None]] = []
    for name in network.junctions:
        sides = [network.neighbours[name][side] for side in SIDES]
        upstream.append([s if network.nodes[s].is_junction else None for s in sides])
    path = work / f"city-{seed}-{seconds}.npz"
    if path.exists():
        with np.load(path) as kept:
            return City(network.junctions, upstream, kept["rows"], kept["standing"])
    readings: dict[str, list[Reading]] = {name: [] for name in network.junctions}
    for _, sights in run(seed, seconds):
        for name, sight in sights.items():
            reading = Reading(sight.phase, sight.standing, sight.vehicles, sight.speed_mps)
            readings[name].append(reading)
    city = _city(readings, dict(zip(network.junctions, upstream, strict=True)))
    np.savez(path, rows=city.rows, standing=city.standing)
    return city


def read_trace(folder: Path) -> City:
    """Reads a recorded trace, such as the shipped one."""
    network = json.loads((folder / "network.json").read_text(encoding="utf-8"))
    readings: dict[str, list[Reading]] = {}
    upstream: dict[str, list[str | None]] = {}
    for junction in network["junctions"]:
        name = junction["id"]
        upstream[name] = [approach["upstream"] for approach in junction["approaches"]]
        lines = gzip.decompress((folder / f"{name}.jsonl.gz").read_bytes()).splitlines()
        seconds = [json.loads(line) for line in lines]
        readings[name] = [Reading(*(row[key] for key in Reading._fields)) for row in seconds]
    return _city(readings, upstream)


def windows(cities: list[City], stride_s: int) -> Series:
    """Stacks cities of one length and lists their windows.

    Args:
        cities: All of the same length.
        stride_s: Seconds between two windows of a junction.
    """
    rows = np.concatenate([city.rows for city in cities])
    standing = np.concatenate([city.standing for city in cities])
    newest = np.arange(HISTORY_S - 1, rows.shape[1] - HORIZON_S, stride_s)
    series = np.repeat(np.arange(len(rows)), len(newest))
    index = np.stack([series, np.tile(newest, len(rows))], axis=1)
    return Series(rows, standing, index)


def _city(
    readings: dict[str, list[Reading]],
    upstream: dict[str, list[str | None]],
) -> City:
    names = sorted(readings)
    seconds = len(readings[names[0]])
    rows = np.zeros((len(names), seconds, CHANNELS), dtype=np.float32)
    standing = np.zeros((len(names), seconds, 4), dtype=np.float32)
    for number, name in enumerate(names):
        known = [other for other in upstream[name] if other is not None]
        for at_s in range(seconds):
            around = {other: readings[other][at_s] for other in known}
            own = readings[name][at_s]
            fill_row(rows[number, at_s], upstream[name], own, around)
            standing[number, at_s] = own.standing
    return City(names, [upstream[name] for name in names], rows, standing)
