"""Measures forecasters as the device runs them: int8, window by window, through the device's backend.

Everything is the mean absolute error in vehicles, over junctions, approaches and windows. Windows
are `STRIDE_S` apart, which no signal cycle is a multiple of.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from agent.infer.features import (
    APPROACHES,
    BLOCK_CHANNELS,
    HISTORY_S,
    HORIZON_S,
    OWN_CHANNELS,
    PHASES,
    VEHICLES_SCALE,
)
from agent.infer.tflite import find_runtime
from tools.forecaster.cities import City
from tools.forecaster.network import alone_rows

STRIDE_S = 7

Array = npt.NDArray[np.float32]
Forecast = Callable[[Array], Array]


def runner(model: bytes, *, alone: bool = False) -> Forecast:
    """Returns a function from windows (n, HISTORY_S, CHANNELS) to forecasts (n, 4).

    Args:
        model: A `.tflite` file's bytes.
        alone: It takes no upstream channels.
    """
    backend = find_runtime().load(model, 1)

    def forecast(rows: Array) -> Array:
        given = alone_rows(rows) if alone else rows
        found = [backend.invoke(window[np.newaxis, :, np.newaxis, :]) for window in given]
        return np.concatenate(found)

    return forecast


def hide(city: City, known: set[str]) -> City:
    """Returns the city as seen by a fleet: only these junctions tell of themselves."""
    rows = city.rows.copy().reshape(*city.rows.shape[:2], APPROACHES, BLOCK_CHANNELS)
    for number, upstream in enumerate(city.upstream):
        for approach, name in enumerate(upstream):
            if name not in known:
                rows[number, :, approach, OWN_CHANNELS:] = 0.0
    return City(city.junctions, city.upstream, rows.reshape(city.rows.shape), city.standing)


def delay(city: City, late_s: int) -> City:
    """Returns the city with the neighbours' news that much later."""
    rows = city.rows.copy().reshape(*city.rows.shape[:2], APPROACHES, BLOCK_CHANNELS)
    rows[:, late_s:, :, OWN_CHANNELS:] = rows[:, :-late_s, :, OWN_CHANNELS:].copy()
    return City(city.junctions, city.upstream, rows.reshape(city.rows.shape), city.standing)


def persistence(rows: Array) -> Array:
    """As it is now: unscales each block's first own standing channel."""
    blocks = rows[:, -1].reshape(len(rows), APPROACHES, BLOCK_CHANNELS)
    return blocks[:, :, PHASES] * np.float32(VEHICLES_SCALE)


def errors(
    forecast: Forecast,
    city: City,
    junctions: Sequence[str] | None = None,
) -> Array:
    """Absolute errors, shape (junctions, windows, 4), in vehicles.

    Args:
        forecast: From windows to vehicles.
        city: What happened.
        junctions: Of these only; None for all.
    """
    newest = np.arange(HISTORY_S - 1, city.seconds - HORIZON_S, STRIDE_S)
    seconds = newest[:, np.newaxis] + np.arange(1 - HISTORY_S, 1)
    found = []
    for number, name in enumerate(city.junctions):
        if junctions is None or name in junctions:
            said = forecast(city.rows[number][seconds])
            found.append(np.abs(said - city.standing[number][newest + HORIZON_S]))
    return np.stack(found)


def last_cycle_errors(city: City) -> Array:
    """Absolute errors of "as one signal cycle before that moment"; shape as of `errors`.

    A stronger rival than persistence: the horizon is about half a cycle, where red has become
    green. The cycle is taken from the whole run, a small advantage.
    """
    target = np.arange(HISTORY_S - 1, city.seconds - HORIZON_S, STRIDE_S) + HORIZON_S
    found = []
    for rows, standing in zip(city.rows, city.standing, strict=True):
        begins = np.flatnonzero(np.diff(rows[:, 0]) > 0)  # of north-south green
        cycle_s = round(float(np.median(np.diff(begins))))
        found.append(np.abs(standing[target - cycle_s] - standing[target]))
    return np.stack(found)


def with_upstream(city: City) -> npt.NDArray[np.bool_]:
    """Which approaches have a junction upstream; shape (junctions, 1, 4)."""
    return np.array([[[name is not None for name in sides]] for sides in city.upstream])
