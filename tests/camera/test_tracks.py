"""Things that stay themselves from picture to picture."""

from random import Random

import pytest

from agent.sensors.detections import DETECTIONS_MAX, Detection
from agent.sensors.tracks import TRACKS_MAX, Tracker

GONE_NS = 1_000
CAR = (0.2, 0.2, 0.6, 0.6)
BIKE = (0.7, 0.7, 0.9, 0.9)


def tracker(frames_min=3):
    return Tracker(0.3, frames_min, GONE_NS)


def see(tracker, now_ns, *boxes, kind="car"):
    return [t.id for t in tracker.see([Detection(kind, 0.9, box) for box in boxes], now_ns)]


def moved(box, down, right):
    top, left, bottom, far = box
    return (top + down, left + right, bottom + down, far + right)


def test_a_thing_counts_when_it_was_seen_often_enough_and_keeps_its_id():
    camera = tracker()
    assert [see(camera, now, CAR) for now in range(5)] == [[], [], *[["seen-1"]] * 3]


def test_what_flickers_up_never_counts():
    camera = tracker()
    seen = [see(camera, now, *([CAR] if now % 3 else [])) for now in range(12)]
    assert seen == [[]] * 12


def test_a_box_that_trembles_is_one_thing():
    random, camera = Random(1), tracker(frames_min=1)
    ids = set()
    for now in range(200):
        box = moved(CAR, random.uniform(-0.03, 0.03), random.uniform(-0.03, 0.03))
        ids.update(see(camera, now, box))
    assert ids == {"seen-1"}


def test_a_thing_that_is_passed_by_stays_itself_and_one_that_went_is_gone():
    camera = tracker(frames_min=1)
    assert see(camera, 0, CAR) == ["seen-1"]
    assert see(camera, GONE_NS) == ["seen-1"]
    assert see(camera, GONE_NS, CAR) == ["seen-1"]
    assert see(camera, 2 * GONE_NS + 1) == []
    assert see(camera, 2 * GONE_NS + 2, CAR) == ["seen-2"]


def test_what_still_stands_after_the_camera_was_away_is_the_same():
    camera = tracker(frames_min=1)
    see(camera, 0, CAR)
    assert see(camera, 100 * GONE_NS, CAR) == ["seen-1"]


def test_the_model_may_change_its_mind_about_the_name():
    camera = tracker(frames_min=1)
    see(camera, 0, CAR, kind="car")
    (track,) = camera.see([Detection("truck", 0.9, CAR)], 1)
    assert (track.id, track.kind) == ("seen-1", "car")


def test_two_things_that_pass_each_other_are_matched_by_what_overlaps_most():
    camera = tracker(frames_min=1)
    near, far = (0.1, 0.1, 0.5, 0.5), (0.1, 0.25, 0.5, 0.65)
    assert see(camera, 0, near, far) == ["seen-1", "seen-2"]
    boxes = [moved(far, 0, 0.02), moved(near, 0, 0.02)]
    tracks = camera.see([Detection("car", 0.9, box) for box in boxes], 1)
    assert {track.id: track.box for track in tracks} == {"seen-1": boxes[1], "seen-2": boxes[0]}


def test_two_things_apart_are_two():
    camera = tracker(frames_min=1)
    assert see(camera, 0, CAR, BIKE) == ["seen-1", "seen-2"]
    assert see(camera, 1, BIKE) == ["seen-1", "seen-2"]
    assert see(camera, GONE_NS + 1, BIKE) == ["seen-2"]


@pytest.mark.parametrize("frames_min", [1, 3])
def test_there_is_an_end_to_what_is_followed(frames_min):
    random, camera = Random(2), tracker(frames_min)
    for now in range(40):
        boxes = []
        for _ in range(DETECTIONS_MAX):
            top, left = random.random() * 0.95, random.random() * 0.95
            boxes.append((top, left, top + 0.02, left + 0.02))
        see(camera, now, *boxes)
        assert len(camera._tracks) <= TRACKS_MAX
