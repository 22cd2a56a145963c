"""The four outputs of a detection model, MobileNet-SSD's and its kin's, as the one tensor that callers see.

Decided here: which output is which, and the order of the columns. Such files end in TFLite_Detection_PostProcess, as
Coral's and TensorFlow's do, which gives boxes, classes, scores and their count. Converters of TensorFlow 2 put scores
first and classes last; the names say nothing, so the place of the boxes tells the two apart.
Assumed: the file's own suppression has left one box for each thing.
Failure: outputs that are no such four are not taken; a count that is no number counts as none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.infer.backend import FloatArray

__all__ = ["BOX", "COLUMNS", "KIND", "SCORE", "Outputs", "join", "outputs_of"]

COLUMNS: Final = 6
"""Of a row: top, left, bottom and right from 0 to 1, then class and score."""
BOX: Final = slice(0, 4)
KIND: Final = 4
SCORE: Final = 5
SIDES: Final = 4


class Outputs(NamedTuple):
    """Which of a file's outputs, counted from 0, is what."""

    boxes: int
    kinds: int
    scores: int
    found: int


def outputs_of(shapes: Sequence[tuple[int, ...]]) -> Outputs | None:
    """Tells what a detection model's outputs are; None: these are not of one."""
    if len(shapes) != len(Outputs._fields):
        return None
    orders = (Outputs(0, 1, 2, 3), Outputs(boxes=1, kinds=3, scores=0, found=2))
    return next((order for order in orders if _fit(order, shapes)), None)


def _fit(order: Outputs, shapes: Sequence[tuple[int, ...]]) -> bool:
    boxes = shapes[order.boxes]
    if len(boxes) != 3 or boxes[0] != 1 or boxes[2] != SIDES:
        return False
    rows = boxes[:2]
    return shapes[order.kinds] == shapes[order.scores] == rows and shapes[order.found] in {(1,), ()}


def join(boxes: FloatArray, kinds: FloatArray, scores: FloatArray, found: FloatArray) -> FloatArray:
    """Returns float32 of shape (1, rows, COLUMNS); rows beyond the count are 0."""
    rows = np.zeros((*scores.shape, COLUMNS), np.float32)
    stated = float(found.ravel()[0])
    count = int(min(max(stated, 0), scores.shape[1])) if np.isfinite(stated) else 0
    rows[:, :count, BOX] = boxes[:, :count]
    rows[:, :count, KIND] = kinds[:, :count]
    rows[:, :count, SCORE] = scores[:, :count]
    return rows
