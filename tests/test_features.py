"""The forecaster's input: channels, missing neighbours, missing seconds, and the shipped trace."""

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import agent
from agent.infer.features import (
    APPROACHES,
    BLOCK_CHANNELS,
    CHANNELS,
    HISTORY_S,
    INPUT_SHAPE,
    OWN_CHANNELS,
    SPEED_SCALE_MPS,
    VEHICLES_SCALE,
    FeatureWindow,
    Reading,
    fill_row,
)

TRACE = Path(agent.__file__).parent / "data" / "traffic"
UPSTREAM: list[str | None] = ["north", None, "south", "west"]


def reading(seed: int) -> Reading:
    rng = np.random.default_rng(seed)
    vehicles = [int(count) for count in rng.integers(0, 20, APPROACHES)]
    standing = [int(rng.integers(0, count + 1)) for count in vehicles]
    speeds = [float(speed) for speed in rng.uniform(0, 14, APPROACHES).round(1)]
    return Reading(int(rng.integers(0, 4)), standing, vehicles, speeds)


def neighbours(seed: int) -> dict[str, Reading | None]:
    return {name: reading(seed + n) for n, name in enumerate(["north", "south", "west"], 1)}


def row_of(own: Reading, around: dict[str, Reading | None]) -> np.ndarray:
    row = np.full(CHANNELS, np.nan, dtype=np.float32)
    fill_row(row, UPSTREAM, own, around)
    return row


def window_of(window: FeatureWindow) -> np.ndarray:
    out = np.full(INPUT_SHAPE, np.nan, dtype=np.float32)
    window.write_into(out)
    return out[0, :, 0, :]


def test_row_holds_own_reading_seen_from_each_approach() -> None:
    own = Reading(0, [1, 2, 3, 4], [5, 6, 7, 8], [1.0, 2.0, 3.0, 4.0])
    blocks = row_of(own, {}).reshape(APPROACHES, BLOCK_CHANNELS)
    for approach, block in enumerate(blocks):
        green = [0.0] * 4
        green[0 if approach in {0, 2} else 2] = 1.0  # north-south has green
        assert block[:4].tolist() == green
        turned = [(approach + step) % 4 for step in range(4)]
        assert block[4:8] * VEHICLES_SCALE == pytest.approx([own.standing[s] for s in turned])
        assert block[8:12] * VEHICLES_SCALE == pytest.approx([own.vehicles[s] for s in turned])
        assert block[12:16] * SPEED_SCALE_MPS == pytest.approx([own.speed_mps[s] for s in turned])
        assert not block[OWN_CHANNELS:].any()


def test_upstream_reading_stands_beside_its_approach_with_a_mask() -> None:
    around = neighbours(10)
    blocks = row_of(reading(0), around).reshape(APPROACHES, BLOCK_CHANNELS)
    assert blocks[:, OWN_CHANNELS].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert not blocks[1, OWN_CHANNELS:].any()
    for approach, name in enumerate(UPSTREAM):
        if name is not None:
            alone = row_of(around[name], {}).reshape(APPROACHES, BLOCK_CHANNELS)
            np.testing.assert_array_equal(
                blocks[approach, OWN_CHANNELS + 1 :], alone[approach, :OWN_CHANNELS]
            )


@pytest.mark.parametrize("around", [{}, {"north": None, "south": None, "west": None}])
def test_unknown_neighbour_is_zero_and_unmasked(around: dict[str, Reading | None]) -> None:
    blocks = row_of(reading(3), around).reshape(APPROACHES, BLOCK_CHANNELS)
    assert not blocks[:, OWN_CHANNELS:].any()


def test_turning_the_city_turns_the_blocks() -> None:
    """A quarter turn of everything moves each block by one place and changes nothing in it."""
    own = reading(5)
    phase = (own.phase + 2) % 4
    turned = Reading(phase, *([*values[1:], values[0]] for values in own[1:]))
    blocks = row_of(own, {}).reshape(APPROACHES, BLOCK_CHANNELS)
    turned_blocks = row_of(turned, {}).reshape(APPROACHES, BLOCK_CHANNELS)
    np.testing.assert_array_equal(turned_blocks, np.roll(blocks, -1, axis=0))


def test_window_equals_the_last_rows() -> None:
    window = FeatureWindow(UPSTREAM)
    rows = []
    for tick_s in range(3 * HISTORY_S + 7):
        own, around = reading(tick_s), neighbours(1000 + tick_s)
        rows.append(row_of(own, around))
        window.push(100 + tick_s, own, around)
        expected = [rows[0]] * (HISTORY_S - len(rows)) + rows[-HISTORY_S:]
        np.testing.assert_array_equal(window_of(window), np.stack(expected))
    assert window.tick_s == 100 + 3 * HISTORY_S + 6


@pytest.mark.parametrize("missing", [1, 5, HISTORY_S - 2, HISTORY_S - 1, HISTORY_S, 10**9])
def test_missing_seconds_repeat_the_row_before_them(missing: int) -> None:
    window = FeatureWindow(UPSTREAM)
    for tick_s in range(10):
        window.push(tick_s, reading(tick_s), {})
    window.push(10 + missing, reading(99), {})
    seen = window_of(window)
    np.testing.assert_array_equal(seen[-1], row_of(reading(99), {}))
    carried = min(missing, HISTORY_S - 1)
    for row in seen[-1 - carried : -1]:
        np.testing.assert_array_equal(row, row_of(reading(9), {}))
    if missing < HISTORY_S - 2:
        np.testing.assert_array_equal(seen[-3 - carried], row_of(reading(8), {}))


def test_a_second_costs_a_row_and_no_new_window() -> None:
    window, out = FeatureWindow(UPSTREAM), np.zeros(INPUT_SHAPE, np.float32)
    window.push(0, reading(0), neighbours(0))
    own, around = reading(1), neighbours(1)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for tick_s in range(1, 100):
            window.push(tick_s, own, around)
            window.write_into(out)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    row_bytes, window_bytes = 4 * CHANNELS, 4 * CHANNELS * HISTORY_S
    assert peak - before < window_bytes / 4
    assert after - before < row_bytes


def test_same_second_replaces_and_older_second_is_dropped() -> None:
    window = FeatureWindow(UPSTREAM)
    window.push(7, reading(1), {})
    window.push(8, reading(2), {})
    window.push(8, reading(3), neighbours(50))
    window.push(5, reading(4), {})
    seen = window_of(window)
    np.testing.assert_array_equal(seen[-1], row_of(reading(3), neighbours(50)))
    np.testing.assert_array_equal(seen[-2], row_of(reading(1), {}))


@pytest.mark.parametrize(
    "bad",
    [
        Reading(4, [0] * 4, [0] * 4, [0.0] * 4),
        Reading(-1, [0] * 4, [0] * 4, [0.0] * 4),
        Reading(0, [0] * 3, [0] * 4, [0.0] * 4),
        Reading(0, [0] * 4, [0] * 4, [0.0] * 5),
    ],
)
def test_reading_of_another_shape_changes_nothing(bad: Reading) -> None:
    window = FeatureWindow(UPSTREAM)
    window.push(1, reading(1), {})
    before = window_of(window)
    with pytest.raises(ValueError, match=r"phase is|approaches"):
        window.push(2, bad, {})
    with pytest.raises(ValueError, match=r"phase is|approaches"):
        window.push(2, reading(2), {"north": bad})
    np.testing.assert_array_equal(window_of(window), before)
    assert window.tick_s == 1


def test_refuses_what_it_cannot_fill() -> None:
    with pytest.raises(ValueError, match="4 approaches"):
        FeatureWindow(["north"])
    window = FeatureWindow(UPSTREAM)
    with pytest.raises(ValueError, match="no reading"):
        window.write_into(np.zeros(INPUT_SHAPE, dtype=np.float32))
    window.push(0, reading(0), {})
    with pytest.raises(ValueError, match="float32"):
        window.write_into(np.zeros(INPUT_SHAPE, dtype=np.float64))
    with pytest.raises(ValueError, match="float32"):
        window.write_into(np.zeros((1, HISTORY_S, 1, CHANNELS + 1), dtype=np.float32))


def test_shipped_trace_fits_the_features() -> None:
    network = json.loads((TRACE / "network.json").read_text(encoding="utf-8"))
    junctions = {junction["id"]: junction for junction in network["junctions"]}
    assert network["version"] == 1
    assert network["seconds"] >= 1200
    assert len(junctions) == 9
    assert sum(path.stat().st_size for path in TRACE.iterdir()) <= 2_000_000
    row = np.zeros(CHANNELS, dtype=np.float32)
    for name, junction in junctions.items():
        assert [approach["name"] for approach in junction["approaches"]] == ["n", "e", "s", "w"]
        upstream = [approach["upstream"] for approach in junction["approaches"]]
        assert set(upstream) - {None} <= set(junctions)
        lines = gzip.decompress((TRACE / f"{name}.jsonl.gz").read_bytes()).splitlines()
        assert len(lines) == network["seconds"]
        for at_s, line in enumerate(lines):
            second = json.loads(line)
            assert second["t_s"] == at_s
            own = Reading(*(second[key] for key in Reading._fields))
            fill_row(row, upstream, own, {})
            assert row.min() >= 0.0
            assert row.max() <= 2.0
            for _, approach, distance_m in second["stopped"]:
                assert approach in range(APPROACHES)
                assert 0.0 <= distance_m <= 100.0
            assert len(second["stopped"]) <= sum(own.standing) <= sum(own.vehicles)
