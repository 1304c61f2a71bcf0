"""Compaction of the SQLite engine's files: against a dict, interrupted, under holds, and what is damage."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from storage.compaction_support import COMPACT, HOUR, expected, faults, filled, last_of_each, path_of
from storage.support import MEMORY, Store, alter, freeze
from takhin import topic_configs
from takhin.errors import PartitionUnavailableError, UnknownTopicError
from takhin.model import Header
from takhin.settings import Settings
from takhin.storage.sqlite.commits import Commits
from takhin.storage.sqlite.reader import Reader
from takhin.testing.contract import ALL, NOW, batch, read_all, spec

Group = Sequence[tuple[bytes | None, bytes | None]]
"""The records of one commit group: keys and values."""

keys = st.sampled_from([b"", b"a", b"b", b"c", b"long" * 5_000, None])
values = st.sampled_from([None, None, b"", b"v", b"w" * 3_000])
groups = st.lists(st.lists(st.tuples(keys, values), min_size=1, max_size=5), min_size=1, max_size=12)


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # to shrink takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(groups, groups, st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=3), st.integers(0, 40))
def test_it_is_a_dict(small_steps, first, second, interruptions, trimmed):
    """Interrupted, crashed and trimmed in between, passes leave what a dict of the records says they do."""

    async def run(data_dir: Path) -> None:
        store = Store(data_dir, ballast_bytes=0)
        await store.open()
        log = (await store.engine.create_topic(spec("t", config=COMPACT))).partitions[0]
        group_at = await put(log, first)
        before = await read_all(log)
        await interrupted(store, "t", interruptions)
        log = store.log("t")
        await log.compact(COMPACT, NOW)
        if not interruptions:  # else the last group is not known any more
            assert await read_all(log) == expected(before, last_group=group_at)
        assert last_of_each(await read_all(log)) == last_of_each(before)
        seen_below = log._state.history.gaps.compacted_below
        await log.trim(min(log.end_offset, trimmed))
        group_at = await put(log, second)
        before = await read_all(log)
        await log.compact(COMPACT, NOW + HOUR)
        found = await read_all(log)
        assert found == expected(before, last_group=group_at, tombstones_below=seen_below)
        assert last_of_each(found) == last_of_each(before)
        assert log.record_count == len(found)
        await store.close()
        assert faults(store) == []

    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        asyncio.run(run(Path(folder, "data")))


async def put(log, groups: Sequence[Group]) -> int:
    """Append these commit groups; returns where the last one begins."""
    for group in groups:
        keys, values = zip(*group, strict=True)
        landed = await log.append(batch(*values, keys=keys))
    return landed.offset


async def interrupted(store: Store, topic: str, interruptions) -> None:
    """Begin a pass again and again; end it after so many turns of the loop, by a crash or a restart."""
    for turns, crash in interruptions:
        task = asyncio.create_task(store.log(topic).compact(COMPACT, NOW))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await (store.crash() if crash else store.reopen())


async def test_an_interrupted_pass_goes_on_to_the_same_result(store, small_steps):
    """With another config and at another time it does what was decided when it began."""
    log = await filled(store)
    begun = asyncio.create_task(log.compact(COMPACT, NOW))
    async with asyncio.timeout(10):
        while log.record_count > 60:  # noqa: ASYNC110  nobody tells how far it is
            await asyncio.sleep(0)
    begun.cancel()
    await asyncio.gather(begun, return_exceptions=True)
    await log.life.rested()  # what was submitted lands all the same
    before = await read_all(log)
    await store.crash()
    log = store.log("t")
    assert await read_all(log) == before
    assert await log.compaction_due(COMPACT, NOW)
    end = log._state.history.under_way.end_offset
    await log.append(batch(b"later", keys=[b"0"]))
    await log.compact(replace(COMPACT, min_compaction_lag_ms=HOUR), NOW + HOUR)
    assert [row[0] for row in await read_all(log)] == [*range(93, 101)]
    assert end == 99


async def test_it_waits_while_the_files_are_held(store):
    """Under a hold nothing is removed; after it the pass goes on."""
    log = await filled(store)
    files = await freeze(store.engine)
    commits = log.mark.commits
    task = asyncio.create_task(log.compact(COMPACT, NOW))
    await asyncio.sleep(0.3)
    assert (log.mark.commits, log.record_count) == (commits, 100)
    files.held = False
    assert await task == 93


async def test_it_waits_while_the_disk_is_full(store):
    """So it does on a full disk."""
    log = await filled(store)
    store.engine._parts.shared.space.full = True
    task = asyncio.create_task(log.compact(COMPACT, NOW))
    await asyncio.sleep(0.05)
    assert log.record_count == 100
    assert await task == 93  # there is space, so that the next look finds it


async def test_a_topic_that_is_deleted_ends_its_pass(store, small_steps):
    """The one who waits is told, and nothing is left behind."""
    log = await filled(store)
    task = asyncio.create_task(log.compact(COMPACT, NOW))
    async with asyncio.timeout(10):
        while log.record_count == 100:  # noqa: ASYNC110  nobody tells how far it is
            await asyncio.sleep(0)
    await store.engine.delete_topic("t")
    with pytest.raises(UnknownTopicError):
        await task
    assert not list(store.data_dir.glob("topics/*"))


async def test_files_are_closed_for_others_in_between(tmp_path, small_steps):
    """With one open file, two logs are compacted at a time while a third one is written."""
    store = Store(tmp_path / "data", open_partitions_max=1)
    await store.open()
    logs = [await filled(store, name, 40) for name in ("a", "b", "c")]
    passes = asyncio.gather(*(log.compact(COMPACT, NOW) for log in logs[:2]))
    while not passes.done():
        await logs[2].append(batch(b"v", keys=[b"k"]))
    assert await passes == [33, 33]
    await store.close()


async def test_a_policy_that_ends_ends_a_pass(store, small_steps):
    """Nothing is removed once the change of the topic is answered, and nothing by a pass that waited."""
    log = await filled(store)
    said = topic_configs.altered(topic_configs.DEFAULTS, {"cleanup.policy": "compact"}, [], Settings())
    await store.engine.alter_topic("t", lambda topic: spec("t", config=said))
    passes = [asyncio.create_task(log.compact(COMPACT, NOW)) for _ in range(2)]
    async with asyncio.timeout(10):
        while log.record_count == 100:  # noqa: ASYNC110  nobody tells how far it is
            await asyncio.sleep(0)
    await store.engine.alter_topic("t", lambda topic: spec("t"))
    left = log.record_count
    assert left > 7
    removed = await asyncio.gather(*passes)
    assert removed == [100 - left, 0]
    assert log.record_count == left
    assert await log.compact(COMPACT, NOW) == left - 7


@pytest.mark.parametrize(("deleted", "read_from"), [(95, 95), (100, 98)])
async def test_a_record_that_another_program_deleted_above_a_pass_is_missed(tmp_path, deleted, read_from):
    """A read stops at it, as no pass can have removed it, and takhin verify finds it."""
    store = await compacted(tmp_path)
    alter(path_of(store), f"DELETE FROM records WHERE offset = {deleted + 4}")
    assert "not every record from offset 99" in str(faults(store))
    await store.open()
    with pytest.raises(PartitionUnavailableError, match=f"{deleted + 4}"):
        await read_all(store.log("t"))
    await store.engine.close()


async def test_a_read_while_a_pass_commits(tmp_path, monkeypatch):
    """Python reads rows and headers by two statements: they are of one moment all the same."""
    store = Store(tmp_path / "data", native="off")
    await store.open()
    log = (await store.engine.create_topic(spec("t", config=COMPACT))).partitions[0]
    of_each = {"keys": [b"%d" % n for n in range(10)], "headers": {n: [Header("h", b"")] for n in range(10)}}
    for _ in range(4):
        await log.append(batch(*[b"v"] * 10, **of_each))
    pending, may, done = threading.Event(), threading.Event(), threading.Event()
    commit, with_headers = Commits._commit, Reader._with_headers

    def held(self, mark):
        for event in (may, done):
            event.clear()
        pending.set()
        may.wait(0.5)
        seconds = commit(self, mark)
        pending.clear()
        done.set()
        return seconds

    def between(self, rows, max_bytes):
        if pending.is_set():
            may.set()
            assert done.wait(5)
        return with_headers(self, rows, max_bytes)

    monkeypatch.setattr(Commits, "_commit", held)
    monkeypatch.setattr(Reader, "_with_headers", between)
    task = asyncio.create_task(log.compact(COMPACT, NOW))
    reads = 0
    while not task.done():
        await asyncio.sleep(0.001)
        reads += pending.is_set()
        found = await log.read(0, **ALL)
        assert [row[0] for row in found.rows if row[0] not in found.headers] == []
    assert reads, "no read came between"
    monkeypatch.undo()
    await store.close()


async def compacted(tmp_path) -> Store:
    """A closed store with a log of which offsets 93 to 99 and 99 to 109 are left."""
    store = Store(tmp_path / "data")
    await store.open()
    log = await filled(store)
    await log.compact(COMPACT, NOW)
    for n in range(10):
        await log.append(batch(b"%d" % n, keys=[b"x"]))
    await store.close()
    return store


async def test_a_record_that_another_program_deleted_below_a_pass_is_counted(tmp_path):
    """A read cannot know that it was there; takhin verify counts."""
    store = await compacted(tmp_path)
    assert faults(store) == []
    alter(path_of(store), "DELETE FROM records WHERE offset = 95")
    assert "compaction has left 6 records below offset 99, and there are 5" in str(faults(store))
    await store.open()
    found = await store.log("t").read(0, **ALL)
    assert 95 not in [row[0] for row in found.rows]
    await store.engine.close()
