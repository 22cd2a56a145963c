"""Where a thing lies, from where its box lies in the picture: which way, and about how far.

Decides: the picture is cut into upright strips of the same width, one for each name of `approaches`, and a thing lies
where the middle of its box does. How far it is follows from its height in the picture by the pinhole camera: a thing of
`h` metres that fills the part `b` of a picture which shows the angle `view` is `h / (2 tan(view / 2) b)` away. Pure.

Assumes a camera that looks straight ahead, and that all of the thing is in the picture: one that is cut off by its edge
looks smaller, so it is nearer than this says. On failure: nothing can fail; distances end at DISTANCE_M_MAX.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.sensors.detections import Box

__all__ = ["HEIGHT_M", "Lens"]

DISTANCE_M_MAX: Final = 10_000.0
"""As the topic contract has it."""
HEIGHT_M: Final = 1.5
"""Of things whose height is not told: between a car and a person."""


class Lens:
    """How one camera looks.

    Args:
        view_deg: Angle between the picture's upper and lower edge.
        heights_m: Height of things by kind.
        approaches: Names of the strips, from left to right; at least one.
    """

    def __init__(
        self, view_deg: float, heights_m: Mapping[str, float], approaches: Sequence[str]
    ) -> None:
        self._spread = 2 * math.tan(math.radians(view_deg) / 2)
        self._heights_m = heights_m
        self._approaches = approaches

    def strip(self, box: Box) -> int:
        """In which strip a box lies, counted from the left."""
        _, left, _, right = box
        strips = len(self._approaches)
        return min(int((left + right) / 2 * strips), strips - 1)

    def approach(self, box: Box) -> str:
        """Which way it lies."""
        return self._approaches[self.strip(box)]

    def distance_m(self, kind: str, box: Box) -> float:
        """About how far it is."""
        top, _, bottom, _ = box
        height_m = self._heights_m.get(kind, HEIGHT_M)
        seen = self._spread * (bottom - top)
        return min(height_m / seen, DISTANCE_M_MAX) if seen > 0 else DISTANCE_M_MAX
