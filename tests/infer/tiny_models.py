"""The tiny models of these tests: what their files are called and what they compute, in numpy.

`make_tiny_models.py` builds the files; reading them needs no runtime.
"""

import hashlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "data" / "models"

WEIGHTS = np.array([[1.0, -0.5, 0.25, 0.0], [0.5, 0.5, 0.5, 0.5], [0.0, 1.0, -1.0, 2.0]])
BIAS = np.array([0.5, -1.0, 0.25])
OTHER_WEIGHTS = WEIGHTS[::-1] * 2.0
OTHER_BIAS = np.array([3.0, 2.0, 1.0])
WIDE_WEIGHTS = np.arange(16.0).reshape(2, 8) / 8.0
WIDE_BIAS = np.array([-1.0, 1.0])

DETECTOR_SIDE = 64
DETECTOR_CELLS = 4
DETECTOR_ROWS = 10
DETECTOR_COLOURS = [(0.5, -0.5, 0.0), (-0.5, 0.5, 0.0)]
"""Likeness to class 0, red, and class 1, green, of a cell whose colours go from -1 to 1."""

X_SCALE = 1 / 16
Y_SCALE = 1 / 8


def read(name: str) -> bytes:
    """Returns the bytes of `{name}.tflite`."""
    return (FOLDER / f"{name}.tflite").read_bytes()


def sha256(model: bytes) -> str:
    """Returns the digest as the client wants it."""
    return hashlib.sha256(model).hexdigest()


def dense(x: np.ndarray) -> np.ndarray:
    """What `dense` computes; its quantised forms up to rounding."""
    return (x @ WEIGHTS.T + BIAS).astype(np.float32)


def dense_other(x: np.ndarray) -> np.ndarray:
    """What `dense_other` computes."""
    return (x @ OTHER_WEIGHTS.T + OTHER_BIAS).astype(np.float32)


def dense_wide(x: np.ndarray) -> np.ndarray:
    """What `dense_wide` computes."""
    return (x @ WIDE_WEIGHTS.T + WIDE_BIAS).astype(np.float32)


def features(*values: float) -> np.ndarray:
    """Returns float32 of shape (1, number of values)."""
    return np.array([values], np.float32)
