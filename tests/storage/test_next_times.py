"""When the next record of each group was stamped is known without opening a file."""

from __future__ import annotations

import pytest

from storage.support import Store
from takhin.model import CommittedOffset, TopicConfig
from takhin.testing.contract import NOW, batch, name_of, read_all, spec, timed


@pytest.fixture
async def store(tmp_path):
    """A store with one open file."""
    opened = Store(tmp_path / "data", open_partitions_max=1)
    await opened.open()
    yield opened
    await opened.close()


async def commit(store: Store, log, **offsets: int) -> None:
    for group_id, offset in offsets.items():
        await store.engine.offsets.commit(group_id, {name_of(log): CommittedOffset(offset, "", NOW)})


async def test_closed_files_stay_closed(store: Store):
    """It is known where a group has committed, and at both ends, before and after a start."""
    log, other = (await store.engine.create_topic(spec("orders", 2))).partitions
    await log.append(timed(*range(100, 110)))
    await commit(store, log, a=0, b=4, c=9, d=10)
    expected = {0: 100, 4: 104, 9: 109, 10: -1}
    for again in (None, store.reopen, store.crash):
        if again is not None:
            await again()
            log, other = store.log("orders"), store.log("orders", 1)
        await other.append(batch(b"v"))  # which closes the other one's file
        assert not log._file.is_open
        assert {offset: log.known_timestamp(offset) for offset in expected} == expected
        assert log.known_timestamp(5) is None
        assert not log._file.is_open


async def test_who_waited_at_the_end(store: Store):
    """What is appended next is the next record of a group that was at the end."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(timed(1, 2))
    await commit(store, log, a=2)
    await log.append(timed(70, 60))
    await log.append(timed(80))
    assert log.known_timestamp(2) == 70


async def test_it_is_forgotten_with_the_group(store: Store):
    """What is known is bounded by what groups have committed."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(timed(*range(100, 110)))
    for offset in range(1, 9):
        await commit(store, log, a=offset, b=4)
    times = log.life.offsets._times[name_of(log)]
    assert times == {4: 104, 8: 108}
    await store.engine.offsets.forget("a")
    assert times == {4: 104}
    await store.engine.offsets.forget("b")
    assert times == {}


async def test_what_is_read_after_a_compaction_is_kept(store: Store):
    """Nothing is known of a log that was compacted until it is read once."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    for n in range(8):
        await log.append(batch(b"v", keys=[b"k%d" % (n % 3)], timestamps=[100 + n]))
    await commit(store, log, a=2)
    assert log.known_timestamp(2) == 102
    await log.compact(TopicConfig(1), NOW)
    left = min(row[0] for row in await read_all(log) if row[0] >= 2)
    assert left > 2
    assert log.known_timestamp(2) is None
    assert await log.timestamp_from(2) == log.known_timestamp(2) == 100 + left
