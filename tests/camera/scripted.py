"""Cameras that do what a test says, and pictures for the tiny detector."""

from pathlib import Path

import numpy as np

from agent.sensors.capture import SourceLost

DETECTOR = Path(__file__).parents[1] / "data" / "models" / "detector.tflite"
SIDE, CELLS = 64, 4
DEADLINE_S = 20
RED, GREEN = (255, 0, 0), (0, 255, 0)


def scene(*things):
    """A black picture in which each (row, column, colour) fills a cell of the detector."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    cell = SIDE // CELLS
    for row, column, colour in things:
        picture[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = colour
    return picture


def held(*events):
    """A step that takes until all these are set; then the source is lost."""

    def wait():
        for event in events:
            event.wait(DEADLINE_S)
        return SourceLost("it was held")

    return wait


def endless(look):
    """Steps without an end, one picture each."""
    while True:
        yield look()


class Scripted:
    """A source. For each opening an error, or steps: a picture, None (a damaged one), an error, or what gives one.

    After the last of them it cannot be opened.
    """

    def __init__(self, *openings, period_s=0.0):
        self.opened = 0
        self.closed = 0
        self.made = 0
        self._openings = openings
        self._period_s = period_s

    def open(self, *_):
        self.opened += 1
        if self.opened > len(self._openings):
            raise SourceLost("it is unplugged")
        steps = self._openings[self.opened - 1]
        if isinstance(steps, Exception):
            raise steps
        return _Opened(self, iter(steps), self._period_s)


class _Opened:
    def __init__(self, source, steps, period_s):
        self.period_s = period_s
        self._source = source
        self._steps = steps
        self._step = None

    def grab(self):
        try:
            step = next(self._steps)
        except StopIteration:
            return False
        self._step = step() if callable(step) else step
        if isinstance(self._step, Exception):
            raise self._step
        return True

    def picture(self):
        self._source.made += 1
        return self._step

    def close(self):
        self._source.closed += 1
