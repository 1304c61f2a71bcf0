"""How finely series are cut, so that there are never more of them than metrics.series_max. Pure.

Series about partitions, topics and groups are as many as clients make of them. If there would be too many,
those of which there are most are summed: partitions by topic, a group's topics by group; then left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple


class Detail(IntEnum):
    """What a series is about. The numbers are those of takhin_metrics_detail."""

    NOTHING = 0
    GROUP = 1
    TOPIC = 2
    PARTITION = 3


class Cut(NamedTuple):
    """One way to cut a part of the series, and how many they are."""

    detail: Detail
    series: int


def cut(ways: Mapping[str, Sequence[Cut]], series_max: int) -> dict[str, Detail]:
    """The detail of each part, so that all together have at most `series_max` series.

    ways: for each part how it may be cut, the finest first and Detail.NOTHING last.
    """
    chosen = dict.fromkeys(ways, 0)

    def series(part: str) -> int:
        return ways[part][chosen[part]].series

    while sum(map(series, ways)) > series_max:
        chosen[max(ways, key=series)] += 1
    return {part: ways[part][at].detail for part, at in chosen.items()}
