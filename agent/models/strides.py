"""The order in which a layer's differences pack best: those first that hardly moved, those last that moved far.

Training moves a whole row of a layer's weights much, or little, and a whole column, too: an output that was often
wrong, an input that was often loud. A Huffman code knows one distribution at a time. So each row and column gets a
level, the logarithm of how far its weights moved on average; the sum of both says how far a weight is likely to have
moved, and weights are sorted by that. Deflate begins a new code each 16,384 symbols, so each code has weights of one
kind.

Nobody says how long a row is: it is the distance at which differences resemble each other more than at those around it,
by their autocorrelation. What is no row costs nothing but time, since the shortest delta counts. Assumes nothing. On
failure: nothing can fail. Source: autocorrelation by the Wiener-Khinchin theorem.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.models.limits import DELTA_SORTED_BYTES_MAX

__all__ = [
    "Bytes",
    "Positions",
    "Sorting",
    "is_sortable",
    "levels_bytes_of",
    "levels_of",
    "likely_strides",
]

Positions: TypeAlias = NDArray[np.int64]
Bytes: TypeAlias = NDArray[np.uint8]

_SAMPLE: Final = 1 << 20
"""Weights that are looked at to find the stride; a row of a quarter of them is found."""
_STRIDE_MIN: Final = 8
_FAR: Final = 4
"""Steps beyond which a weight counts as moved no farther, or a few would hide the rest."""
_CHANCE: Final = 8.0
"""Of drawn weights the autocorrelation deviates by one over the root of their number, and so many times that never."""
_SHARES: Final = (1.0, 0.8, 0.4)
"""Of the largest autocorrelation: the shortest distance that has so much is tried. A row may have periods of its own,
as a kernel's positions do, and its multiples resemble each other as well."""
_LEVELS: Final = 127
"""Sums of two levels stay below 256."""
_OCTAVE: Final = 4
"""Levels in which the average doubles."""


class Sorting(NamedTuple):
    """A layer, and the order of its bytes."""

    begin: int
    length: int
    stride: int
    """Of a row."""
    levels: bytes
    """One byte for each row, the last of which may be short, then one for each column."""

    def order(self) -> Positions:
        """Where each byte of the sorted layer comes from."""
        rows = -(-self.length // self.stride)
        levels = np.frombuffer(self.levels, np.uint8)
        likely = (levels[:rows, None] + levels[None, rows:]).ravel()[: self.length]
        return np.argsort(likely, kind="stable")


def is_sortable(length: int, stride: int) -> bool:
    """Whether there can be such a sorting."""
    return 0 < stride <= length <= DELTA_SORTED_BYTES_MAX


def levels_bytes_of(length: int, stride: int) -> int:
    """How many levels a layer has: one for each row and for each column."""
    return -(-length // stride) + stride


def levels_of(layer: Bytes, stride: int) -> bytes:
    """The levels of a layer's differences."""
    rows = -(-len(layer) // stride)
    moved = np.zeros(rows * stride, np.float32)
    moved[: len(layer)] = np.abs(layer.view(np.int8).astype(np.float32))
    table = moved.reshape(rows, stride)
    return b"".join(_levels(table.mean(axis=axis)).tobytes() for axis in (1, 0))


def likely_strides(layer: Bytes) -> list[int]:
    """Lengths that the rows of a layer may have; empty: it does not look as if it had any."""
    if not is_sortable(len(layer), _STRIDE_MIN):
        return []
    middle = max(0, (len(layer) - _SAMPLE) // 2)
    sample = _moved(layer[middle : middle + _SAMPLE])
    sample -= sample.mean()
    count = len(sample)
    spectrum = np.fft.rfft(sample, 2 * count)
    far = count // 4
    products = np.fft.irfft(np.abs(spectrum) ** 2)[:far]
    if far <= _STRIDE_MIN or products[0] <= 0:
        return []
    alike = products / products[0] * count / (count - np.arange(far))
    resemblance = np.zeros(far)
    resemblance[1:-1] = alike[1:-1] - (alike[:-2] + alike[2:]) / 2
    resemblance[:_STRIDE_MIN] = 0
    most = float(resemblance.max())
    if most * count**0.5 < _CHANCE:
        return []
    return sorted({int(np.argmax(resemblance >= share * most)) for share in _SHARES})


def _moved(layer: Bytes) -> NDArray[np.float32]:
    """How far each weight moved, in steps."""
    return np.minimum(np.abs(layer.view(np.int8).astype(np.float32)), _FAR)


def _levels(means: NDArray[np.float32]) -> Bytes:
    """Averages as levels; 0 where nothing moved."""
    levels = np.zeros(len(means), np.uint8)
    moved = means > 0
    octaves = np.round(_OCTAVE * np.log2(means[moved]))
    levels[moved] = np.clip(octaves - octaves.max(initial=0) + _LEVELS, 1, _LEVELS)
    return levels
