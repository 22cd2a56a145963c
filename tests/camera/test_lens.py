"""Where a thing lies."""

import math

import pytest

from agent.sensors.lens import DISTANCE_M_MAX, HEIGHT_M, Lens

LENS = Lens(90.0, {"person": 1.8}, ("left", "ahead", "right"))


def box(left, right, height=0.5):
    return (0.0, left, height, right)


@pytest.mark.parametrize(
    ("left", "right", "approach"),
    [(0.0, 0.2, "left"), (0.3, 0.7, "ahead"), (0.6, 0.8, "right"), (1.0, 1.0, "right")],
)
def test_a_thing_lies_where_the_middle_of_its_box_does(left, right, approach):
    assert LENS.approach(box(left, right)) == approach


def test_one_strip_is_the_whole_picture():
    assert Lens(40.0, {}, ("n",)).approach(box(0.9, 1.0)) == "n"


def test_distance_follows_from_the_height_in_the_picture():
    # At 90 degrees a picture shows twice as many metres as it is away.
    assert LENS.distance_m("person", box(0, 1, height=0.5)) == pytest.approx(1.8)
    assert LENS.distance_m("person", box(0, 1, height=0.1)) == pytest.approx(9.0)
    assert LENS.distance_m("cone", box(0, 1, height=0.5)) == pytest.approx(HEIGHT_M)
    narrow = Lens(40.0, {"person": 1.8}, ("n",))
    expected = 0.9 / math.tan(math.radians(20)) / 0.1
    assert narrow.distance_m("person", box(0, 1, height=0.1)) == pytest.approx(expected)


@pytest.mark.parametrize("height", [0.0, 1e-12])
def test_distance_has_an_end(height):
    assert LENS.distance_m("person", box(0, 1, height=height)) == DISTANCE_M_MAX
