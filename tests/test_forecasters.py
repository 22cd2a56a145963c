"""The shipped forecasters: what their packages say of them is true, and neighbours make them better."""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import agent
from agent.infer.features import (
    APPROACHES,
    HORIZON_S,
    INPUT_SHAPE,
    FeatureWindow,
    Reading,
)
from agent.infer.kinds import Kind
from agent.infer.tflite import find_runtime
from agent.models.package import Package
from agent.models.packing import difference
from agent.models.shipped import ModelFiles

DATA = Path(agent.__file__).parent / "data"
PACKAGES = sorted(ModelFiles().packages, key=lambda package: package.draft.version)
JUNCTION = "j-1-1"
STRIDE_S = 7
SIZE_BYTES_MAX = 200_000


@cache
def trace(junction: str) -> list[Reading]:
    lines = gzip.decompress((DATA / "traffic" / f"{junction}.jsonl.gz").read_bytes()).splitlines()
    seconds = [json.loads(line) for line in lines]
    return [Reading(*(second[key] for key in Reading._fields)) for second in seconds]


def replay(model: bytes | None, *, with_neighbours: bool) -> float:
    """Mean absolute error in vehicles on the shipped trace; persistence without a model."""
    network = json.loads((DATA / "traffic" / "network.json").read_text(encoding="utf-8"))
    junction = next(entry for entry in network["junctions"] if entry["id"] == JUNCTION)
    upstream = [approach["upstream"] for approach in junction["approaches"]]
    window = FeatureWindow(upstream)
    features = np.zeros(INPUT_SHAPE, dtype=np.float32)
    backend = find_runtime().load(model, 1) if model is not None else None
    own = trace(JUNCTION)
    errors = []
    for tick_s in range(len(own) - HORIZON_S):
        around = {name: trace(name)[tick_s] for name in upstream if name} if with_neighbours else {}
        window.push(tick_s, own[tick_s], around)
        if tick_s % STRIDE_S == 0:
            said = np.asarray(own[tick_s].standing)  # in HORIZON_S it will be as it is now
            if backend is not None:
                window.write_into(features)
                said = backend.invoke(features)[0]
            errors.append(np.abs(said - own[tick_s + HORIZON_S].standing))
    return float(np.mean(errors))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.draft.version)
def test_package_is_true(package: Package) -> None:
    model = package.read(Kind.TFLITE)
    backend = find_runtime().load(model, 1)
    assert len(model) <= SIZE_BYTES_MAX
    (taken,), (given,) = package.draft.inputs, package.draft.outputs
    assert backend.input.shape == taken.shape == INPUT_SHAPE
    assert backend.output.shape == given.shape == (1, APPROACHES)
    assert backend.input.dtype == backend.output.dtype == taken.dtype == given.dtype == "int8"
    assert difference(package.draft, backend) <= package.draft.sample.tolerance


def test_two_versions_that_differ_ship() -> None:
    assert [package.draft.version for package in PACKAGES] == ["1", "2"]
    assert {package.draft.name for package in PACKAGES} == {"forecaster"}
    first, second = PACKAGES
    other = find_runtime().load(second.read(Kind.TFLITE), 1)
    assert difference(first.draft, other) > first.draft.sample.tolerance


def test_neighbours_and_the_newer_version_forecast_better() -> None:
    first, second = (package.read(Kind.TFLITE) for package in PACKAGES)
    with_neighbours = replay(second, with_neighbours=True)
    assert with_neighbours < 0.8 * replay(first, with_neighbours=True)
    assert with_neighbours < 0.8 * replay(second, with_neighbours=False)
    assert with_neighbours < 0.5 * replay(None, with_neighbours=True)
