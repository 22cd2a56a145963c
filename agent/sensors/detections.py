"""From a detection model's rows to the things that it saw: what counts, and what they are called.

Decides: a row counts with a finite box of some size, a score from `score_min` on and a kind that is asked for; of rows
that lie on each other the best counts, since models give one thing several names (car and truck). Pure.
Assumes nothing of the rows: a model may say anything. At most DETECTIONS_MAX are taken, the best first.
On failure: `SensorError` for a file of labels that cannot be used; rows that do not count are passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from agent.errors import SensorError
from agent.infer.detection import BOX, KIND, SCORE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from agent.infer.backend import FloatArray

__all__ = ["DETECTIONS_MAX", "Detection", "detections_of", "overlaps", "read_labels"]

DETECTIONS_MAX: Final = 64
"""Things in one picture. Detection models give 10 to 100 rows; each costs a column of overlaps."""
SAME_MIN: Final = 0.8
"""Boxes that overlap so much are one thing. Two things side by side or behind each other stay below it. Guess."""
LABELS_BYTES_MAX: Final = 64 * 1024
"""The names of ImageNet's thousand classes have 22 KB."""
KIND_CHARACTERS_MAX: Final = 32
"""As the topic contract has it."""

Box = tuple[float, float, float, float]


class Detection(NamedTuple):
    """A thing in a picture."""

    kind: str
    score: float
    box: Box
    """Top, left, bottom, right, as parts of the picture's height and width."""


def detections_of(
    rows: FloatArray, labels: Mapping[int, str], kinds: Collection[str], score_min: float
) -> list[Detection]:
    """What a model saw, the best score first.

    Args:
        rows: Shape (1, rows, COLUMNS), as `agent.infer.detection` has them.
        labels: What classes are called; one that is missing is called by its number.
        kinds: Names that count; empty: all.
        score_min: From here on a row counts.
    """
    found = rows[0][np.isfinite(rows[0]).all(axis=1)]
    found[:, BOX] = np.clip(found[:, BOX], 0.0, 1.0)
    tall, wide = found[:, 2] > found[:, 0], found[:, 3] > found[:, 1]
    found = found[tall & wide & (found[:, SCORE] >= score_min)]
    seen: list[Detection] = []
    for row in found[np.argsort(-found[:, SCORE], kind="stable")].tolist():
        kind = labels.get(int(row[KIND])) or _kind(f"class-{int(row[KIND])}")
        if (not kinds or kind in kinds) and len(seen) < DETECTIONS_MAX:
            seen.append(Detection(kind, row[SCORE], tuple(row[BOX])))
    boxes = [detection.box for detection in seen]
    same = overlaps(boxes, boxes) >= SAME_MIN
    kept: list[int] = []
    for number in range(len(seen)):
        if not same[number, kept].any():
            kept.append(number)
    return [seen[number] for number in kept]


def overlaps(some: npt.ArrayLike, others: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Intersection over union of each box of `some` (rows) with each of `others` (columns), 0 to 1."""
    a = np.asarray(some, np.float64).reshape(-1, 1, 4)
    b = np.asarray(others, np.float64).reshape(1, -1, 4)
    corner, far_corner = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.prod(np.clip(far_corner - corner, 0.0, None), axis=-1)
    areas = np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1)
    either = areas - shared
    part: npt.NDArray[np.float64] = np.zeros_like(shared)
    np.divide(shared, either, out=part, where=either > 0)
    return part


def read_labels(path: Path) -> dict[int, str]:
    """What classes are called: a name on each line, or each with its number before it, as Coral's files have it.

    Raises:
        SensorError: The file cannot be read, or is too large to be one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LABELS_BYTES_MAX + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise SensorError(f"labels {path} cannot be read: {error}") from None
    if len(data) > LABELS_BYTES_MAX:
        raise SensorError(
            f"labels {path} has more than {LABELS_BYTES_MAX} bytes; is it the right file?"
        )
    lines = [line.strip() for line in text.splitlines()]
    numbered = [line.split(maxsplit=1) for line in lines if line]
    if numbered and all(len(parts) == 2 and parts[0].isdecimal() for parts in numbered):
        return {int(number): _kind(name) for number, name in numbered}
    return {number: _kind(name) for number, name in enumerate(lines) if name}


def _kind(name: str) -> str:
    return name.strip()[:KIND_CHARACTERS_MAX]
