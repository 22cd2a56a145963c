"""Trains the forecaster on mean absolute error, spoiling its neighbours as a real fleet would.

A share of the windows loses an upstream junction altogether, or from some second on, or before;
another share has news of the neighbours that is a second old, or a history that has just begun.
So one model serves a device in a full fleet, at its edge, and alone.
"""

import time
from dataclasses import dataclass

import torch

from agent.infer.features import APPROACHES, HISTORY_S, HORIZON_S, OWN_CHANNELS
from tools.forecaster.cities import Series
from tools.forecaster.network import Forecaster

BATCH = 192
RATE_MAX = 4e-3
WEIGHT_DECAY = 1e-3
NEIGHBOUR_MISSING = 0.15
NEIGHBOUR_COMES_OR_GOES = 0.05
NEIGHBOUR_LATE = 0.3
HISTORY_BEGINS = 0.05


@dataclass(frozen=True)
class Recipe:
    """How long to train on how much.

    Attributes:
        cities: How many of the training cities.
        stride_s: Seconds between windows.
        epochs: Passes over the windows.
        alone: Without upstream channels; for comparison only.
    """

    cities: int
    stride_s: int
    epochs: int
    alone: bool = False


def train(recipe: Recipe, series: Series, seed: int, threads: int) -> Forecaster:
    """Trains one model.

    Args:
        recipe: Number of epochs and kind.
        series: The windows.
        seed: Of the first weights, the order and the spoiling.
        threads: CPU threads; part of the recipe, as sums depend on it in the last digits.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    model = Forecaster(alone=recipe.alone)
    rows, standing = torch.from_numpy(series.rows), torch.from_numpy(series.standing)
    index = torch.from_numpy(series.index)
    batches = len(index) // BATCH
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, RATE_MAX, total_steps=recipe.epochs * batches
    )
    began = time.monotonic()
    for epoch in range(recipe.epochs):
        total = 0.0
        order = torch.randperm(len(index))
        for batch in order[: batches * BATCH].split(BATCH):
            x, y = draw(rows, standing, index[batch])
            loss = (model(x) - y).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        kind = "alone" if recipe.alone else "with neighbours"
        spent_s = time.monotonic() - began
        print(f"{kind}: epoch {epoch + 1}, {total / batches:.4f}, {spent_s:.0f} s", flush=True)
    return model.eval()


def draw(
    rows: torch.Tensor,
    standing: torch.Tensor,
    index: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gathers and spoils a batch.

    Args:
        rows: Shape (series, seconds, CHANNELS).
        standing: Shape (series, seconds, 4).
        index: (series, newest second), shape (batch, 2).

    Returns:
        Windows, shape (batch, HISTORY_S, CHANNELS), and targets, shape (batch, 4).
    """
    series, newest = index[:, :1], index[:, 1:]
    steps = torch.arange(1 - HISTORY_S, 1)
    seconds = newest + steps
    # A history that has just begun repeats its first row.
    begins = torch.rand(len(index), 1) < HISTORY_BEGINS
    first = newest + torch.randint(1 - HISTORY_S, 1, (len(index), 1))
    seconds = torch.where(begins, torch.maximum(seconds, first), seconds)
    late = (torch.rand(len(index), 1) < NEIGHBOUR_LATE).long()
    x = rows[series, seconds].unflatten(-1, (APPROACHES, -1))
    upstream = rows[series, (seconds - late).clamp(min=0)].unflatten(-1, (APPROACHES, -1))
    known = upstream[..., OWN_CHANNELS:] * _known(len(index))
    x = torch.cat([x[..., :OWN_CHANNELS], known], dim=-1).flatten(-2)
    return x, standing[series[:, 0], newest[:, 0] + HORIZON_S]


def _known(batch: int) -> torch.Tensor:
    """1 where an upstream junction is heard, else 0; shape (batch, HISTORY_S, 4, 1)."""
    shape = (batch, 1, APPROACHES, 1)
    present = torch.rand(shape) >= NEIGHBOUR_MISSING
    changes = torch.rand(shape) < NEIGHBOUR_COMES_OR_GOES
    at_s = torch.randint(0, HISTORY_S, shape)
    seconds = torch.arange(HISTORY_S).reshape(1, HISTORY_S, 1, 1)
    heard = torch.where(torch.rand(shape) < 0.5, seconds < at_s, seconds >= at_s)
    return (present & (heard | ~changes)).float()
