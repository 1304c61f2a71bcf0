"""The lowest offset that a group has committed is known without asking all groups again."""

from __future__ import annotations

import random

from takhin.model import CommittedOffset, TopicPartition
from takhin.storage.sqlite.offset_index import OffsetIndex

AT = TopicPartition("t", 0)


def test_the_lowest():
    """After every change the lowest is that of all that is committed, whether or not one asked before."""
    chance = random.Random(1)
    index = OffsetIndex()
    offsets: dict[str, int] = {}
    for _ in range(5_000):
        group_id = f"g{chance.randrange(5)}"
        if chance.random() < 0.2:
            offsets.pop(group_id, None)
            index.note(AT, [(group_id, None)])
        else:
            offsets[group_id] = chance.randrange(20)
            index.note(AT, [(group_id, CommittedOffset(offsets[group_id], "", 0))])
        if chance.random() < 0.5:
            assert index.lowest(AT) == min(offsets.values(), default=None)
    index.drop("t")
    assert index.lowest(AT) is None
