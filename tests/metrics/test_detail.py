"""How finely series are cut: a pure choice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from takhin.metrics.detail import Cut, Detail, cut

PARTITION, TOPIC, NOTHING = Detail.PARTITION, Detail.TOPIC, Detail.NOTHING
SIZES = st.lists(st.integers(0, 10_000), min_size=1, max_size=3).map(lambda of: sorted(of, reverse=True))


def ways(*series):
    return [*map(Cut, list(Detail)[:0:-1], series), Cut(NOTHING, 0)]


def test_the_largest_part_is_cut_first():
    """Few groups keep their partitions while many partitions are summed, and the other way round."""
    parts = {"partitions": ways(1_000, 10), "groups": ways(30, 3)}
    assert cut(parts, 1_030) == {"partitions": PARTITION, "groups": PARTITION}
    assert cut(parts, 1_029) == {"partitions": TOPIC, "groups": PARTITION}
    assert cut(parts, 39) == {"partitions": TOPIC, "groups": TOPIC}
    assert cut(parts, 5) == {"partitions": NOTHING, "groups": TOPIC}
    assert cut(parts, 0) == {"partitions": NOTHING, "groups": NOTHING}


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=3), SIZES, max_size=4), st.integers(0, 20_000))
def test_the_bound_holds(sizes, series_max):
    """Whatever the sizes, the parts together keep the bound, and nothing is cut that fits."""
    parts = {name: ways(*of) for name, of in sizes.items()}
    chosen = cut(parts, series_max)
    series = {name: next(way.series for way in parts[name] if way.detail is chosen[name]) for name in parts}
    assert sum(series.values()) <= series_max
    if sum(of[0] for of in sizes.values()) <= series_max:
        assert all(detail is PARTITION for detail in chosen.values())
