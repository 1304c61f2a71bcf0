"""The view `lag` in a partition's file counts only what is still there."""

from __future__ import annotations

from storage.support import run_sql
from takhin.model import CommittedOffset
from takhin.testing.contract import NOW, name_of, numbered, spec


async def test_the_view(store):
    """Behind the beginning the lag is that of the beginning."""
    (log,) = (await store.engine.create_topic(spec("t"))).partitions
    await log.append(numbered(10))
    await log.trim(8)
    for group_id, offset in (("a", 2), ("b", 9)):
        await store.engine.offsets.commit(group_id, {name_of(log): CommittedOffset(offset, "", NOW)})
    assert run_sql(log.path, "SELECT group_id, lag FROM lag") == "a|2\nb|1"
