"""`models`, very small: its shape, that every version arrives everywhere, and that nothing is lost meanwhile."""

import asyncio

from agent.infer.tflite import find_runtime
from bench import models
from bench.networks import DENSE, LARGEST, Moved, convolutions, dense


def measured(*stories):
    found = asyncio.run(models.run(quick=True, only=list(stories))).json()
    assert found["problems"] == []
    return found


def test_a_version_reaches_every_device_and_nothing_is_lost():
    found = measured("rollout")
    assert set(found["ratios"]) == {
        "all_swapped_s",
        "publisher_copies",
        "obstacle_p99_over_quiet",
        "obstacle_p99_more_ms",
    }
    busy = found["systems"]["a version travels"]
    assert busy["obstacles"] > 0
    assert busy["obstacle_p99_ms"] > 0
    assert busy["inferences_failed"] == 0
    assert 1 <= found["ratios"]["publisher_copies"] <= 3


def test_a_chain_passes_content_on_and_a_killed_device_fetches_the_rest():
    found = measured("chain", "killed")
    assert found["ratios"]["chain_over_hop"] > 0
    assert found["ratios"]["chunks_fetched_twice"] <= 1
    assert found["systems"]["killed at half"]["chunks_sent_twice"] >= 0


def test_a_layer_that_was_trained_further_is_a_small_delta():
    found = measured("delta")
    shares = {name: row["delta_over_full"] for name, row in found["systems"].items()}
    assert shares[f"{LARGEST}, 0.3 steps"] < shares[f"{LARGEST}, 1 steps"]
    assert found["ratios"]["delta_over_full"] == shares[f"{LARGEST}, 1 steps"] < 0.1
    assert shares[f"{DENSE}, 1 steps"] < 1


def test_a_layer_moves_alone():
    base, moved = convolutions(1), convolutions(1, Moved(LARGEST, 1.0))
    assert len(base) == len(moved)
    changed = sum(one != other for one, other in zip(base, moved, strict=True))
    assert 0.5 * 512 * 256 * 9 < changed < 512 * 256 * 9


def test_a_dense_network_has_the_shape_that_was_asked_for():
    backend = find_runtime().load(dense(7, 5, 1), 1)
    assert (backend.input.shape, backend.output.shape) == ((1, 7), (1, 5))
