"""From the detections of picture after picture to things that stay themselves: one that stands keeps one id.

Decides which detection is a thing that was seen before: pairs that overlap most are matched first, and none below
`overlap_min`. The name of a thing is the one that it was first seen under, whatever the model calls it later. A thing
counts when it was seen in `frames_min` pictures in a row, so that what flickers up once is none, and until it was not
seen for `gone_ns`, so that what is passed by stays itself. Pure; ids count upwards and never come back.

Assumes pictures from one place, often enough that things overlap themselves: what moves by more than its own width from
one picture to the next becomes another thing. On failure: beyond TRACKS_MAX things more are not followed.

Source: SORT (Bewley et al. 2016) without its motion model, which standing things do not need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.sensors.detections import overlaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.sensors.detections import Box, Detection

__all__ = ["TRACKS_MAX", "Track", "Tracker"]

TRACKS_MAX: Final = 128
"""Followed at a time: all detections of two pictures that have nothing in common."""


@dataclass(slots=True)
class Track:
    """A thing that is followed."""

    id: str
    kind: str
    box: Box
    """Where it was last seen."""
    seen_ns: int
    """When that was."""
    frames: int = 1
    """Pictures in which it was seen, until it counts."""


class Tracker:
    """What one camera follows.

    Args:
        overlap_min: Intersection over union from which a detection may be a thing seen before.
        frames_min: Pictures in a row that make a thing count.
        gone_ns: Not seen for so long, a thing is gone.
    """

    def __init__(self, overlap_min: float, frames_min: int, gone_ns: int) -> None:
        self._overlap_min = overlap_min
        self._frames_min = frames_min
        self._gone_ns = gone_ns
        self._tracks: list[Track] = []
        self._named = 0

    def see(self, detections: Sequence[Detection], now_ns: int) -> list[Track]:
        """Takes in a picture's detections, the best first; returns the things that count."""
        known, matched = self._tracks, self._matches(detections)
        for number, detection in enumerate(detections):
            place = matched.get(number)
            if place is None:
                self._begin(detection, now_ns)
            else:
                track = known[place]
                track.box, track.seen_ns = detection.box, now_ns
                track.frames = min(track.frames + 1, self._frames_min)
        self._tracks = [track for track in self._tracks if self._stays(track, now_ns)]
        return [track for track in self._tracks if track.frames >= self._frames_min]

    def _matches(self, detections: Sequence[Detection]) -> dict[int, int]:
        """Which detection, by its number, is which track."""
        boxes = [detection.box for detection in detections]
        shared = overlaps(boxes, [track.box for track in self._tracks])
        pairs = np.argwhere(shared >= self._overlap_min)
        matched: dict[int, int] = {}
        taken: set[int] = set()
        for number, place in pairs[np.argsort(-shared[tuple(pairs.T)], kind="stable")].tolist():
            if number not in matched and place not in taken:
                matched[number] = place
                taken.add(place)
        return matched

    def _begin(self, detection: Detection, now_ns: int) -> None:
        if len(self._tracks) < TRACKS_MAX:
            self._named += 1
            self._tracks.append(Track(f"seen-{self._named}", detection.kind, detection.box, now_ns))

    def _stays(self, track: Track, now_ns: int) -> bool:
        patience_ns = self._gone_ns if track.frames >= self._frames_min else 0
        return now_ns - track.seen_ns <= patience_ns
