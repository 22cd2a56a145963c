"""What the forecaster sees: the one definition used in training and on the device.

A junction's input is the last `HISTORY_S` seconds, one row a second. A row has four blocks, one per
approach: the junction's own reading as seen from that approach, then the reading of the junction
upstream of it with a mask channel of 1. Where nothing is known of that junction (a border road, a
dead device, a junction outside of the fleet) its channels and its mask are 0; the forecaster is
trained with neighbours left out at random. "Seen from an approach" means turned, so that the
approach itself comes first and its own green is phase 0: the forecaster can then use the same
weights for all four.

Decides: channels, their order and scales, what a missing second means (the previous row stands for
it), what comes before the first reading (the first row). Assumes readings of four approaches in the
order north, east, south, west. A reading of another shape raises `ValueError` and changes nothing.

Channels of one row::

    4 times (n, e, s, w):
        own       phase one-hot 4 | standing 4 | vehicles 4 | speed 4          16
        upstream  mask 1 | phase one-hot 4 | standing 4 | vehicles 4 | speed 4  17

Everything is scaled to about 0..1. Needs numpy only.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

APPROACHES: Final = 4
PHASES: Final = 4
HISTORY_S: Final = 64  # a little more than one signal cycle
HORIZON_S: Final = 30
VEHICLES_SCALE: Final = 16.0  # about as many as fit in the camera's range of one approach
SPEED_SCALE_MPS: Final = 14.0  # the city's speed limit

OWN_CHANNELS: Final = PHASES + 3 * APPROACHES
UPSTREAM_CHANNELS: Final = 1 + OWN_CHANNELS
BLOCK_CHANNELS: Final = OWN_CHANNELS + UPSTREAM_CHANNELS
CHANNELS: Final = APPROACHES * BLOCK_CHANNELS
INPUT_SHAPE: Final = (1, HISTORY_S, 1, CHANNELS)

Row = npt.NDArray[np.float32]


class Reading(NamedTuple):
    """What one junction's camera and signal head tell of one second.

    Attributes:
        phase: Signal phase, 0 to 3: north-south green, its clearing, east-west green, its clearing.
        standing: Vehicles standing, per approach (north, east, south, west).
        vehicles: Vehicles in the camera's range, per approach.
        speed_mps: Their mean speed in metres per second, per approach.
    """

    phase: int
    standing: Sequence[int]
    vehicles: Sequence[int]
    speed_mps: Sequence[float]


def fill_row(
    row: Row,
    approaches_upstream: Sequence[str | None],
    own: Reading,
    neighbours: Mapping[str, Reading | None],
) -> None:
    """Writes one second's channels.

    Args:
        row: Shape (CHANNELS,), float32, contiguous; every element is overwritten.
        approaches_upstream: The junction upstream of each approach, None at the border.
        own: This junction's reading.
        neighbours: Readings by junction; absent or None where nothing is known.

    Raises:
        ValueError: A reading does not have four approaches or its phase is not 0 to 3; the row
            is as it was.
    """
    turned = _scaled(own)[_TURNS]
    known = [
        (approach, _scaled(reading))
        for approach, name in enumerate(approaches_upstream)
        if name is not None and (reading := neighbours.get(name)) is not None
    ]
    blocks = row.reshape(APPROACHES, BLOCK_CHANNELS)
    blocks[:, :OWN_CHANNELS] = turned
    blocks[:, OWN_CHANNELS:] = 0.0
    for approach, upstream in known:
        blocks[approach, OWN_CHANNELS] = 1.0
        blocks[approach, OWN_CHANNELS + 1 :] = upstream[_TURNS[approach]]


class FeatureWindow:
    """The last `HISTORY_S` rows of one junction, kept in a ring so that a push costs one row.

    Args:
        approaches_upstream: The junction upstream of the north, east, south and west approach;
            None for a border road.

    Raises:
        ValueError: Not four approaches.
    """

    def __init__(self, approaches_upstream: list[str | None]) -> None:
        if len(approaches_upstream) != APPROACHES:
            raise ValueError(f"{APPROACHES} approaches are needed, not {len(approaches_upstream)}")
        self._upstream = tuple(approaches_upstream)
        self._ring: Row = np.zeros((HISTORY_S, CHANNELS), dtype=np.float32)
        self._row: Row = np.zeros(CHANNELS, dtype=np.float32)
        self._newest = HISTORY_S - 1  # where in the ring the newest row stands
        self._tick_s: int | None = None

    @property
    def tick_s(self) -> int | None:
        """The newest second pushed; None before the first."""
        return self._tick_s

    def push(self, tick_s: int, own: Reading, neighbours: Mapping[str, Reading | None]) -> None:
        """Takes in one second.

        Seconds that were skipped repeat the row before them. The same second again replaces its
        row. A second older than the newest is dropped: its place has been filled.

        Args:
            tick_s: The second, on any clock that counts seconds upwards.
            own: This junction's reading.
            neighbours: Newest readings by junction; absent or None where nothing is known.

        Raises:
            ValueError: A reading is of the wrong shape; the window is as it was.
        """
        if self._tick_s is not None and tick_s < self._tick_s:
            return
        fill_row(self._row, self._upstream, own, neighbours)
        if self._tick_s is None:
            self._ring[:] = self._row
        else:
            self._carry_forward(tick_s - self._tick_s - 1)
            if tick_s > self._tick_s:
                self._newest = (self._newest + 1) % HISTORY_S
            self._ring[self._newest] = self._row
        self._tick_s = tick_s

    def write_into(self, out: npt.NDArray[np.float32]) -> None:
        """Copies the window, oldest second first.

        Args:
            out: Shape (1, HISTORY_S, 1, CHANNELS), float32; every element is overwritten.

        Raises:
            ValueError: Another shape or type, or nothing has been pushed yet.
        """
        if out.shape != INPUT_SHAPE or out.dtype != np.float32:
            raise ValueError(f"float32 of {INPUT_SHAPE} is needed, not {out.dtype} of {out.shape}")
        if self._tick_s is None:
            raise ValueError("no reading has been pushed yet")
        oldest = (self._newest + 1) % HISTORY_S
        out[0, : HISTORY_S - oldest, 0] = self._ring[oldest:]
        out[0, HISTORY_S - oldest :, 0] = self._ring[:oldest]

    def _carry_forward(self, missing: int) -> None:
        """Repeats the newest row for seconds without a reading."""
        last = self._ring[self._newest].copy()
        for _ in range(min(missing, HISTORY_S)):
            self._newest = (self._newest + 1) % HISTORY_S
            self._ring[self._newest] = last


def _scaled(reading: Reading) -> Row:
    """Returns a reading's channels, shape (OWN_CHANNELS,), float32."""
    if not 0 <= reading.phase < PHASES:
        raise ValueError(f"phase is 0 to {PHASES - 1}, not {reading.phase}")
    lengths = {len(reading.standing), len(reading.vehicles), len(reading.speed_mps)}
    if lengths != {APPROACHES}:
        raise ValueError(f"a reading has {APPROACHES} approaches, not {sorted(lengths)}")
    scaled = [0.0] * PHASES
    scaled[reading.phase] = 1.0
    scaled += [value / VEHICLES_SCALE for value in reading.standing]
    scaled += [value / VEHICLES_SCALE for value in reading.vehicles]
    scaled += [value / SPEED_SCALE_MPS for value in reading.speed_mps]
    return np.array(scaled, dtype=np.float32)


def _turn(approach: int) -> list[int]:
    """Order of a reading's channels as seen from an approach: it first, then clockwise."""
    phases = [2, 3, 0, 1] if approach % 2 else [0, 1, 2, 3]
    sides = [(approach + step) % APPROACHES for step in range(APPROACHES)]
    groups = [PHASES + APPROACHES * group + side for group in range(3) for side in sides]
    return phases + groups


_TURNS: Final = np.array([_turn(approach) for approach in range(APPROACHES)])
