"""Makes and measures the forecasters.

`python -m tools.forecaster make` simulates, trains, builds what ships and measures it;
`python -m tools.forecaster measure` only measures what `make` left behind.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from agent.models.manifest import Rollout
from agent.models.package import read_package, write_package
from agent.models.packing import Described, pack
from tools.forecaster.building import build_int8
from tools.forecaster.cities import (
    HELD_OUT_SECONDS,
    HELD_OUT_SEEDS,
    TRAIN_SECONDS,
    TRAIN_SEEDS,
    Series,
    read_trace,
    simulate,
    windows,
)
from tools.forecaster.measuring import runner
from tools.forecaster.network import Forecaster, alone_rows
from tools.forecaster.report import held_out_table, trace_table
from tools.forecaster.training import Recipe, draw, train

DATA = Path(__file__).parents[2] / "agent" / "data"
SEED = 1
CALIBRATION_WINDOWS = 2000

# The first version has seen little; the second one is what one would run.
RECIPES = {
    "forecaster-1": Recipe(cities=4, stride_s=9, epochs=2),
    "forecaster-2": Recipe(cities=24, stride_s=5, epochs=8),
    "alone": Recipe(cities=24, stride_s=5, epochs=8, alone=True),
}
SHIPPED = ("forecaster-1", "forecaster-2")
TASK = "vehicles standing per approach in 30 s"


def make(work: Path, threads: int) -> None:
    """Simulates, trains and builds; leaves the models that do not ship in the work folder."""
    for name, recipe in RECIPES.items():
        began = time.monotonic()
        cities = [simulate(seed, TRAIN_SECONDS, work) for seed in TRAIN_SEEDS[: recipe.cities]]
        series = windows(cities, recipe.stride_s)
        model = train(recipe, series, SEED, threads)
        packed = build_int8(model.exported(), _calibration(model, series), work)
        if name in SHIPPED:
            _ship(name, packed)
        else:
            (work / f"{name}.tflite").write_bytes(packed)
        print(f"{name}: {len(packed):,} bytes, {time.monotonic() - began:.0f} s", flush=True)


def measure(work: Path) -> None:
    """Prints the tables of `docs/forecaster.md`."""
    packed = {name: read_package(DATA / "models" / name).read("tflite") for name in SHIPPED}
    forecasts = {name: runner(model) for name, model in packed.items()}
    forecasts["alone"] = runner((work / "alone.tflite").read_bytes(), alone=True)
    cities = [simulate(seed, HELD_OUT_SECONDS, work) for seed in HELD_OUT_SEEDS]
    print(held_out_table(forecasts, cities))
    print(trace_table(forecasts, read_trace(DATA / "traffic")))


def _calibration(model: Forecaster, series: Series) -> np.ndarray:
    """Draws training windows to measure ranges on; shape (n, HISTORY_S, channels)."""
    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    chosen = rng.permutation(len(series.index))[:CALIBRATION_WINDOWS]
    rows, _ = draw(
        torch.from_numpy(series.rows),
        torch.from_numpy(series.standing),
        torch.from_numpy(series.index[chosen]),
    )
    return alone_rows(rows.numpy()) if model.alone else rows.numpy()


def _ship(name: str, packed: bytes) -> None:
    """Leaves a version where those that ship are."""
    model, version = name.split("-")
    described = Described(
        model, version, TASK, Rollout(), low=0.0, high=1.0, seed=1, tolerance=None
    )
    write_package(DATA / "models" / name, *pack(described, [(name, packed)]))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.forecaster", description=__doc__)
    parser.add_argument("command", choices=("make", "measure"))
    parser.add_argument("--work", type=Path, default=Path("build") / "forecaster")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if arguments.command == "make":
        make(arguments.work, arguments.threads)
    measure(arguments.work)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
