"""What the parts of a broker count with: histograms and tallies."""

import pytest

from takhin.meters import COMBINATIONS_MAX, OTHER, Histogram, Tally, powers


def test_a_histogram_counts_each_value_once():
    """A value at a bound is within it, one above all bounds is in the last range."""
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 4.1, 100):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 2]
    assert histogram.cumulative() == [2, 4, 5, 7]
    assert histogram.sum == pytest.approx(112.6)


def test_a_tally_is_bounded():
    """However many labels a stranger invents, a tally keeps a bounded number and counts everything."""
    tally = Tally("reason", "topic")
    for number in range(3 * COMBINATIONS_MAX):
        tally.add("unknown", str(number))
    tally.add("unknown", "7", count=4)
    assert len(tally.counts) == COMBINATIONS_MAX + 1
    assert tally.counts["unknown", "7"] == 5
    assert tally.counts[OTHER, OTHER] == 2 * COMBINATIONS_MAX
    assert sum(tally.counts.values()) == 3 * COMBINATIONS_MAX + 4


def test_bounds_double():
    """`powers` gives ascending bounds that end at or below the last one."""
    assert powers(1, 10) == (1, 2, 4, 8)
    assert powers(1, 1_000, factor=10) == (1, 10, 100, 1_000)
