"""The outputs of a detection model: which is which, and what becomes of them."""

import numpy as np
import pytest
import tiny_models

from agent.infer.detection import BOX, COLUMNS, KIND, SCORE, Outputs, join, outputs_of
from agent.infer.tflite import find_runtime

BOXES, ROWS, COUNT = (1, 10, 4), (1, 10), (1,)


@pytest.mark.parametrize(
    ("shapes", "outputs"),
    [
        ((BOXES, ROWS, ROWS, COUNT), Outputs(boxes=0, kinds=1, scores=2, found=3)),
        ((ROWS, BOXES, COUNT, ROWS), Outputs(boxes=1, kinds=3, scores=0, found=2)),
        (((1, 1, 4), (1, 1), (1, 1), ()), Outputs(boxes=0, kinds=1, scores=2, found=3)),
    ],
)
def test_the_place_of_the_boxes_tells_which_output_is_which(shapes, outputs):
    assert outputs_of(shapes) == outputs


@pytest.mark.parametrize(
    "shapes",
    [
        (),
        (BOXES, ROWS, ROWS),
        (ROWS, ROWS, ROWS, COUNT),
        ((2, 10, 4), (2, 10), (2, 10), COUNT),
        (BOXES, ROWS, (1, 9), COUNT),
        (BOXES, ROWS, ROWS, ROWS),
        ((1, 10, 5), ROWS, ROWS, COUNT),
    ],
)
def test_other_outputs_are_those_of_no_detection_model(shapes):
    assert outputs_of(shapes) is None


@pytest.mark.parametrize(
    ("count", "found"), [(2, 2), (0, 0), (-1, 0), (99, 3), (np.nan, 0), (np.inf, 0)]
)
def test_rows_beyond_the_count_are_zero(count, found):
    ones = np.ones((1, 3), np.float32)
    rows = join(np.ones((1, 3, 4), np.float32), ones, ones, np.array([count], np.float32))
    assert rows.shape == (1, 3, COLUMNS)
    assert rows.sum() == found * COLUMNS


def test_a_detector_sees_what_is_in_the_picture():
    backend = find_runtime().load(tiny_models.read("detector"), 1)
    side, rows = tiny_models.DETECTOR_SIDE, tiny_models.DETECTOR_ROWS
    assert backend.input.shape == (1, side, side, 3)
    assert backend.output.shape == (1, rows, COLUMNS)
    picture = np.full(backend.input.shape, -1.0, np.float32)
    picture[0, 16:32, 48:64, 1] = 1.0  # a green cell
    found = backend.invoke(picture)[0]
    np.testing.assert_allclose(found[0, BOX], [0.25, 0.75, 0.5, 1.0], atol=1e-6)
    assert found[0, KIND] == 1
    assert found[0, SCORE] == pytest.approx(1.0)
    assert not found[1:].any()
    assert not backend.invoke(np.full_like(picture, -1.0)).any()
