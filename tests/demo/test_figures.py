"""Percentiles: exact over the last seconds, within half a percent over a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.demo.figures import RECENT_MAX, Histogram, Recent

durations = st.lists(st.integers(1, 10**12), min_size=1, max_size=200)


def nearest_rank(values, percent):
    ordered = sorted(values)
    return next(v for i, v in enumerate(ordered, 1) if i * 100 >= percent * len(values))


@given(durations, st.sampled_from([1, 50, 99, 100]))
def test_a_histogram_is_off_by_half_a_percent(values, percent):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    expected = nearest_rank(values, percent) / 1e6
    assert histogram.percentile_ms(percent) == pytest.approx(expected, rel=0.0051)
    assert (histogram.count, histogram.max_ns) == (len(values), max(values))


@given(durations, st.sampled_from([1, 50, 99, 100]))
def test_recent_values_are_exact(values, percent):
    recent = Recent(100)
    for value in values:
        recent.add(7, value)
    assert recent.percentiles_ms(107, percent) == [nearest_rank(values, percent) / 1e6]
    assert recent.percentiles_ms(108, percent) is None


def test_nothing_has_no_percentile():
    assert Histogram().percentile_ms(50) is None
    assert Recent(1).percentiles_ms(0, 50, 99) is None


def test_recent_is_bounded():
    recent = Recent(10)
    for value in range(RECENT_MAX + 5):
        recent.add(0, value)
    assert recent.percentiles_ms(0, 0.001) == [5 / 1e6]
