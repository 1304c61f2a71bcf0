"""What retention lets go, as arithmetic; and how the SQLite engine goes about it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from takhin.schema import PAGE_BYTES

from lending import lend_template
from storage.support import ClockedStore, freeze, run_sql
from takhin.model import NO_LIMIT, CleanupPolicy, CommittedOffset, Condition, Header, TopicConfig
from takhin.settings import StorageSettings
from takhin.storage.retention import AHEAD_MS, Limits, Oldest, limits_of
from takhin.storage.sqlite import retention
from takhin.storage.sqlite.engine import SqliteEngine
from takhin.storage.sqlite.group import EMPTY_PAGES
from takhin.storage.sqlite.writes import TRIM_RECORDS_MAX
from takhin.testing.contract import NOW, batch, name_of, numbered, spec, timed

MIB = 1 << 20


def config(**fields):
    return TopicConfig(MIB, **fields)


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        ({}, None),
        ({"retention_ms": 5}, Limits(5, None, None)),
        ({"retention_bytes": 5, "retention_records": 7}, Limits(None, 5, 7)),
        ({"retention_ms": 5, "cleanup_policy": ()}, None),
        ({"retention_ms": 5, "cleanup_policy": (CleanupPolicy.COMPACT,)}, None),
        ({"retention_ms": 5, "cleanup_policy": tuple(CleanupPolicy)}, Limits(5, None, None)),
        ({"retention_ms": NO_LIMIT}, None),
        ({"retention_consumed": True}, Limits(None, None, None, consumed=True)),
    ],
)
def test_limits(fields, limits):
    """A topic has limits where it says so and its policy deletes."""
    assert limits_of(config(**fields)) == limits


@pytest.mark.parametrize(
    ("records", "start", "end", "first"),
    [(None, 3, 99, 3), (10, 0, 10, 0), (10, 0, 11, 1), (10, 5, 12, 5), (1, 0, 0, 0), (1, 7, 9, 8)],
)
def test_by_number(records, start, end, first):
    """The last records stay."""
    assert Limits(None, None, records).first_by_number(start, end - start) == first


@pytest.mark.parametrize(
    ("consumed", "committed", "first"),
    [(False, 9, 5), (True, None, 5), (True, 3, 5), (True, 9, 9)],
)
def test_by_groups(consumed, committed, first):
    """What all groups have read goes, if it is to."""
    assert Limits(None, None, None, consumed).first_by_groups(5, committed) == first


@pytest.mark.parametrize(
    ("limit", "size", "excess"),
    [(None, 1 << 40, 0), (100, 100, 0), (100, 101, 1), (1, 1 << 41, (1 << 41) - 1)],
)
def test_by_size(limit, size, excess):
    """What is above the limit is too much."""
    assert Limits(None, limit, None).excess_bytes(size) == excess


@pytest.mark.parametrize(
    ("timestamp", "appended", "past", "unclear"),
    [
        (89, None, True, False),
        (90, None, False, False),
        (100, 0, False, False),  # a timestamp that may be true decides, whatever the broker's clock said
        (100 + AHEAD_MS, 0, False, False),
        (101 + AHEAD_MS, 0, True, False),
        (101 + AHEAD_MS, 90, False, False),
        (101 + AHEAD_MS, None, False, True),
        (101 + AHEAD_MS, 101, False, True),
    ],
)
def test_by_age(timestamp, appended, past, unclear):
    """A timestamp tells the age unless it is ahead of the clock; then the time of the append does."""
    oldest = Oldest(timestamp, appended)
    assert (oldest.is_past(90, 100), oldest.is_unclear(100)) == (past, unclear)


class Clocked:
    """An engine whose clock the test sets."""

    def __init__(self, data_dir, **settings):
        self.now = NOW
        self.engine = SqliteEngine(data_dir, StorageSettings(**settings), clock=lambda: self.now)
        self.data_dir = data_dir

    async def __aenter__(self):
        await self.engine.open()
        lend_template(self.data_dir)
        return self

    async def __aexit__(self, *_):
        await self.engine.close()

    async def log(self, name, **fields):
        return (await self.engine.create_topic(spec(name, config=config(**fields)))).partitions[0]


async def test_idle_partitions_are_trimmed_without_being_asked(tmp_path):
    """With 50 partitions and 4 open files, each is trimmed in its turn, and none is opened before."""
    async with Clocked(tmp_path / "data", open_partitions_max=4) as clocked:
        logs = [await clocked.log(f"t{n}", retention_ms=60_000) for n in range(50)]
        for log in logs:
            await log.append(numbered(10))
        opened = [log._file.is_open for log in logs]
        clocked.now += 60_000
        await clocked.engine.retain()
        assert [log._file.is_open for log in logs] == opened
        clocked.now += 1
        async with asyncio.timeout(20):
            while any(log.start_offset < 10 for log in logs):  # noqa: ASYNC110  nobody tells of a trim
                await asyncio.sleep(0.01)


async def test_those_that_wait_are_served_before_any_has_its_second_turn(memory, monkeypatch):
    """Partitions at the end of the list are trimmed though those before them have more each time."""
    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.005)
    async with Clocked(memory / "data") as clocked:
        await clocked.engine._parts.upkeep.stop()
        topic = await clocked.engine.create_topic(spec("t", 100, config(retention_records=1)))
        for log in topic.partitions:
            await log.append(numbered(2))
        for _ in range(100):
            for log in topic.partitions[:20]:
                await log.append(numbered(2))
            await clocked.engine._parts.retention.look()
        assert all(log.start_offset for log in topic.partitions)


async def test_what_a_commit_under_way_removes_is_waited_for(tmp_path):
    """A trim, and a look for all, that find the start moved already return when that is durable."""
    async with Clocked(tmp_path / "data", commit_threads=1) as clocked:
        await clocked.engine._parts.upkeep.stop()
        log = await clocked.log("t", retention_records=5)
        await log.append(numbered(10))
        goes_on = threading.Event()
        clocked.engine._parts.shared.threads.commit.submit(goes_on.wait, lambda _result, _error: None)
        trims = [asyncio.create_task(log.trim(5))]
        while log.start_offset < 5:  # noqa: ASYNC110  nobody tells of a trim
            await asyncio.sleep(0)
        trims += [asyncio.create_task(log.trim(5)), asyncio.create_task(log.trim(3))]
        retained = asyncio.create_task(clocked.engine.retain())
        await asyncio.wait([*trims, retained], timeout=0.1)
        done = [each for each in (*trims, retained) if each.done()]
        goes_on.set()
        await retained
        assert await asyncio.gather(*trims) == [5, 5, 5]
        assert not done


async def test_pages_of_records(tmp_path):
    """An empty log has no pages of records, and neither offsets nor producers count as such, ever."""
    store = ClockedStore(tmp_path / "data")
    await store.open()
    (log,) = (await store.engine.create_topic(spec("t"))).partitions
    assert (log._state.pages.total, log._state.records_bytes) == (EMPTY_PAGES, 0)
    await log.append(batch(*[b"v" * 1_000] * 1_000))
    before = log._state.records_bytes
    assert 1_000_000 <= before < 1_200_000
    for n in range(300):
        await store.engine.offsets.commit(f"g{n}", {name_of(log): CommittedOffset(0, "m" * 4_000, NOW)})
    assert log._state.records_bytes == before
    await store.reopen()
    log = store.log("t")
    assert log._state.records_bytes == before
    for n in range(500):
        for sequence in range(5):
            producer = Condition(n.to_bytes(16), sequence)
            await log.append(replace(batch(b"v"), condition=producer))
    assert abs(log._state.records_bytes - before) < 3 * PAGE_BYTES + 500 * 5 * 16
    await store.close()


async def test_nothing_goes_under_a_hold(tmp_path):
    """While files are copied nothing is removed; afterwards it is."""
    async with Clocked(tmp_path / "data") as clocked:
        log = await clocked.log("t", retention_records=1)
        files = await freeze(clocked.engine)
        await log.append(numbered(10))
        await clocked.engine.retain()
        assert log.start_offset == 0
        files.held = False
        await clocked.engine.retain()
        assert log.start_offset == 9


async def test_a_byte_too_much_takes_few_steps(tmp_path):
    """Space is freed in pages, so a step removes at least as much as is on one."""
    async with Clocked(tmp_path / "data") as clocked:
        await clocked.engine._parts.upkeep.stop()
        log = await clocked.log("t")
        await log.append(batch(*[b"v" * 100] * 3_000))
        limited = config(retention_bytes=log._state.records_bytes - 1)
        await clocked.engine.alter_topic("t", lambda _: spec("t", config=limited))
        commits = log.mark.commits
        await clocked.engine.retain()
        assert log.mark.commits - commits < 10
        assert 50 < log.start_offset < 300


async def test_a_gap_is_crossed_in_few_commits(tmp_path):
    """A compacted log that has one record too many behind a long gap loses that one, and none beside it."""
    async with Clocked(tmp_path / "data") as clocked:
        await clocked.engine._parts.upkeep.stop()
        both = config(cleanup_policy=tuple(CleanupPolicy))
        log = await clocked.log("t")
        for _ in range(2):
            await log.append(batch(*[b"v"] * 4_000, keys=[b"k"] * 4_000))
        await log.append(batch(*[b"v"] * 11, keys=[b"%d" % n for n in range(11)]))
        await log.append(batch(b"v", keys=[b"k"]))
        await clocked.engine.alter_topic("t", lambda _: spec("t", config=both))
        assert await log.compact(both, NOW) == 8_000
        ten = replace(both, retention_records=10)
        await clocked.engine.alter_topic("t", lambda _: spec("t", config=ten))
        commits = log.mark.commits
        await clocked.engine.retain()
        assert (log.start_offset, log.record_count) == (8_002, 10)
        assert log.mark.commits - commits < 10


async def test_a_full_disk_gets_all_free_pages_back(tmp_path):
    """While the disk is full, what retention frees is given back at once, also where it is little."""
    async with Clocked(tmp_path / "data") as clocked:
        await clocked.engine._parts.upkeep.stop()  # it would see that the disk is not full
        log = await clocked.log("t")
        await log.append(batch(*[b"v" * 1_000] * 1_000))
        total = log._state.pages.total
        await clocked.engine.alter_topic("t", lambda _: spec("t", config=config(retention_records=900)))
        clocked.engine._parts.shared.space.full = True
        clocked.engine._parts.shared.space.give_ballast()
        await clocked.engine.retain()
        assert log.start_offset == 100
        assert log._state.pages.free == 0
        assert log._state.pages.total < total


@pytest.mark.parametrize(
    "sent",
    [
        [batch(*[b""] * 10_000)] * 3,
        [batch(*[b"v" * 300_000] * 20)],
        [batch(*[b""] * 9, headers={n: [Header("k", b"")] * 1_000 for n in range(9)})] * 3,
        [batch(*[b""] * 30, headers={n: [Header("k", b"v" * 200_000)] for n in range(30)})],
    ],
    ids=["records", "values", "headers", "header values"],
)
async def test_a_step_is_short(sent, tmp_path):
    """However the content is spread, a trim takes several steps: no turn of the loop is long."""
    async with Clocked(tmp_path / "data") as clocked:
        log = await clocked.log("t")
        for each in sent:
            await log.append(each)
        commits = log.mark.commits
        await log.trim(log.end_offset - 1)
        assert log.mark.commits - commits > 2
        await log.trim(log.end_offset)
        assert log.start_offset == log.end_offset
        for table in ("records", "headers", "time_blocks"):
            assert run_sql(log.path, f"SELECT count(*) FROM {table}") == "0"


async def test_freed_pages_are_used_again(tmp_path):
    """Appends and trims in step keep the file as large as it is."""
    async with Clocked(tmp_path / "data") as clocked:
        log = await clocked.log("t", retention_records=TRIM_RECORDS_MAX)
        sizes = []
        for _ in range(20):
            await log.append(batch(*[b"v" * 500] * 2_000))
            await clocked.engine.retain()
            sizes.append(log._state.pages.total)
        assert sizes[-1] == sizes[5]


async def test_free_pages_are_given_back(tmp_path):
    """A quiet partition gives its free pages back, if they are many; one that is written to does not."""
    async with Clocked(tmp_path / "data", free_pages_percent_max=50) as clocked:
        await clocked.engine._parts.upkeep.stop()  # it would do so by itself, after some seconds
        log = await clocked.log("t", retention_records=2_000)
        await log.append(batch(*[b"v" * 1_000] * 10_000))
        await clocked.engine.retain()
        before, commits = log._state.pages, log.mark.commits
        assert before.free > before.total // 2
        await log.trimmer.give_pages_back(commits_before=commits - 1)
        assert log._state.pages == before
        await log.trimmer.give_pages_back(commits_before=commits)
        assert log._state.pages.free == 0
        assert log._state.pages.total < before.total // 2
        commits = log.mark.commits
        await log.trimmer.give_pages_back(commits_before=commits)
        assert log.mark.commits == commits


SECOND_MS, HOUR_MS, DAY_MS = 1_000, 3_600_000, 86_400_000


async def test_a_week(memory):
    """With a record a second and retention.ms of a day, each hour begins with exactly the last day's records.

    The broker is stopped and started at some hours, and killed at others.
    """
    store = ClockedStore(memory / "data")
    await store.open()
    await store.engine.create_topic(spec("t", config=config(retention_ms=DAY_MS)))
    for hour in range(7 * 24):
        for minute in range(0, 60, 10):
            first = NOW + hour * HOUR_MS + minute * 60 * SECOND_MS
            await store.log("t").append(timed(*range(first, first + 600 * SECOND_MS, SECOND_MS)))
        store.now = NOW + (hour + 1) * HOUR_MS
        if hour % 31 == 30:
            await store.crash()
        elif hour % 17 == 16:
            await store.reopen()
        await store.engine.retain()
        log = store.log("t")
        assert (log.start_offset, log.end_offset) == (max(0, hour - 23) * 3_600, (hour + 1) * 3_600)
    await store.close()
