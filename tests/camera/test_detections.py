"""From a model's rows to the things that it saw."""

import numpy as np
import pytest

from agent.errors import SensorError
from agent.infer.detection import COLUMNS
from agent.sensors.detections import (
    DETECTIONS_MAX,
    LABELS_BYTES_MAX,
    detections_of,
    overlaps,
    read_labels,
)

LABELS = {0: "person", 2: "car", 7: "truck"}
A, B = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)


def rows(*found):
    """Each is box, class, score."""
    values = [[*box, kind, score] for box, kind, score in found]
    return np.array([values], np.float32).reshape(1, -1, COLUMNS)


def kinds(found, wanted=(), score_min=0.5):
    return [d.kind for d in detections_of(found, LABELS, wanted, score_min)]


def test_the_best_comes_first_and_bears_its_name():
    found = rows((A, 0, 0.6), (B, 2, 0.9))
    assert kinds(found) == ["car", "person"]
    best = detections_of(found, LABELS, (), 0.5)[0]
    assert best.box == B
    assert best.score == pytest.approx(0.9)


def test_a_low_score_does_not_count():
    found = rows((A, 0, 0.49), (B, 2, 0.51))
    assert kinds(found) == ["car"]
    assert kinds(found, score_min=0.2) == ["car", "person"]


def test_only_what_is_asked_for_counts():
    assert kinds(rows((A, 0, 0.9), (B, 2, 0.9)), wanted=("person",)) == ["person"]


def test_a_class_without_a_name_is_called_by_its_number():
    assert kinds(rows((A, 99, 0.9))) == ["class-99"]
    (huge,) = kinds(rows((A, 1e30, 0.9)))
    assert len(huge) == 32


def test_one_thing_under_two_names_is_one_thing():
    nearly = (0.01, 0.0, 0.5, 0.5)
    assert kinds(rows((A, 2, 0.8), (nearly, 7, 0.9), (B, 2, 0.7))) == ["truck", "car"]


@pytest.mark.parametrize(
    "row",
    [
        ((0.5, 0.5, 0.5, 0.9), 0, 0.9),
        ((0.9, 0.5, 0.5, 0.9), 0, 0.9),
        ((1.5, 0.0, 2.0, 1.0), 0, 0.9),
        ((np.nan, 0.0, 1.0, 1.0), 0, 0.9),
        ((0.0, 0.0, 1.0, np.inf), 0, 0.9),
        (A, np.nan, 0.9),
        (A, 0, np.nan),
    ],
)
def test_a_row_that_is_no_box_does_not_count(row):
    assert kinds(rows(row, (B, 2, 0.6))) == ["car"]


def test_a_box_over_the_edge_ends_there():
    (found,) = detections_of(rows(((-0.2, 0.5, 1.3, 0.75), 0, 0.9)), LABELS, (), 0.5)
    assert found.box == (0.0, 0.5, 1.0, 0.75)


def test_there_is_an_end_to_them():
    side = 16
    boxes = [
        (row / side, column / side, (row + 1) / side, (column + 1) / side)
        for row in range(side)
        for column in range(side)
    ]
    found = rows(*((box, 0, 0.9) for box in boxes))
    assert len(detections_of(found, LABELS, (), 0.5)) == DETECTIONS_MAX
    assert detections_of(rows(), LABELS, (), 0.5) == []


def test_overlaps_are_shared_area_over_all_area():
    half = (0.0, 0.0, 0.5, 0.25)
    np.testing.assert_allclose(overlaps([A, B], [A, B, half]), [[1, 0, 0.5], [0, 1, 0]])
    assert overlaps([], [A]).shape == (0, 1)
    assert overlaps([A], []).shape == (1, 0)
    assert overlaps([(0, 0, 0, 0)], [(0, 0, 0, 0)]).item() == 0


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("person\ncar\n", {0: "person", 1: "car"}),
        ("0  person\n2  sports ball\n", {0: "person", 2: "sports ball"}),
        ("???\nperson\n\ncar\n", {0: "???", 1: "person", 3: "car"}),
        ("", {}),
        ("x" * 50, {0: "x" * 32}),
    ],
)
def test_labels_are_read_as_they_are_found(tmp_path, text, labels):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    assert read_labels(path) == labels


@pytest.mark.parametrize("data", [None, b"\xff\xfe", b"x" * (LABELS_BYTES_MAX + 1)])
def test_labels_that_are_none_are_said_so(tmp_path, data):
    path = tmp_path / "labels.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SensorError, match=r"labels\.txt"):
        read_labels(path)
