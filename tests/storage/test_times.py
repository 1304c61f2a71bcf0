"""The search for a time reads the rows about blocks and the records of one block, whatever the timestamps."""

from __future__ import annotations

import random
from contextlib import closing

import apsw

from storage.support import run_sql
from takhin.disk import statements as sql
from takhin.storage.sqlite.times import BLOCK_MS, BLOCK_RECORDS, CLEARED_AT_A_TIME, Times
from takhin.storage.sqlite.writes import ClearTimes
from takhin.testing.contract import NOW, spec, timed

BLOCKS = 60
STEPS = 100
"""How many instructions of SQLite's there are between two calls of a progress handler."""


async def steps_of(log, timestamp):
    """(what is found, how many instructions the search took)."""
    calls = 0

    def count():
        nonlocal calls
        calls += 1
        return False

    await log.read(log.start_offset, max_bytes=1, max_records=1)
    log._file.reader.set_progress_handler(count, STEPS)
    found = await log.offset_for_time(timestamp)
    log._file.reader.set_progress_handler(None)
    return found, calls * STEPS


async def test_no_search_scans_the_log(store):
    """With the highest timestamp trimmed and the others out of order, a search reads about one block."""
    (log,) = (await store.engine.create_topic(spec("t"))).partitions
    chance = random.Random(1)
    stamps = [n + chance.randrange(-5_000, 5_000) for n in range(10_000, 10_000 + BLOCKS * BLOCK_RECORDS)]
    stamps[3] = 1 << 40
    for at in range(0, len(stamps), BLOCK_RECORDS):
        await log.append(timed(*stamps[at : at + BLOCK_RECORDS]))
    await log.trim(BLOCK_RECORDS // 2)
    kept = stamps[log.start_offset :]
    for _ in range(2):
        for wanted in (0, kept[0], 30_000, 50_000, max(kept), 1 << 41):
            expected = next((n for n, stamp in enumerate(kept, log.start_offset) if stamp >= wanted), None)
            found, steps = await steps_of(log, wanted)
            assert found == ((len(stamps), -1) if expected is None else (expected, stamps[expected])), wanted
            assert steps < 20 * BLOCK_RECORDS  # a scan of all records takes 300,000
        await store.reopen()
        log = store.log("t")


async def test_blocks_are_cleared_in_steps(store):
    """However many blocks are counted as appended now, a step counts a thousand, and all have one moment."""
    (log,) = (await store.engine.create_topic(spec("t"))).partitions
    db = log._file.writer
    blocks = 2 * CLEARED_AT_A_TIME + 500
    db.execute("BEGIN")
    db.executemany(sql.PUT_BLOCK, [(beyond, 0, NOW * beyond) for beyond in range(1, blocks + 1)])
    db.execute("COMMIT")
    at, lowered = 0, []
    while at is not None:
        before = db.total_changes()
        at = await log.life.submit(ClearTimes(at))
        lowered.append(db.total_changes() - before)
    assert len(lowered) == 3
    assert max(lowered) < CLEARED_AT_A_TIME + 5
    assert db.execute("SELECT min(appended), max(appended) FROM time_blocks").get == (NOW, NOW)
    db.execute("DELETE FROM time_blocks")


async def test_blocks_end_by_number_and_by_time(store):
    """A file gets a row for as many records, not for each commit; a trim removes the rows below the start."""
    (log,) = (await store.engine.create_topic(spec("t"))).partitions
    for _ in range(3 * 8):
        await log.append(timed(*range(NOW, NOW + BLOCK_RECORDS // 8)))
    await log.trim(BLOCK_RECORDS)
    await store.close()
    rows = run_sql(log.path, "SELECT beyond, highest, appended FROM time_blocks")
    assert rows == f"{2 * BLOCK_RECORDS}|{NOW + BLOCK_RECORDS // 8 - 1}|{NOW}"
    await store.open()
    times = Times(blocked=10, highest=5, appended=0, began=0)
    assert [times.block_due(11, now) for now in (0, BLOCK_MS - 1, BLOCK_MS, -1)] == [False, False, True, True]
    assert not times.block_due(10, BLOCK_MS)
    assert not times.trimmed(11, 11).block_due(11, BLOCK_MS)
    assert times.trimmed(5, 11) == times


def test_a_search_stops_at_the_first_block_that_may_do():
    """It does not go through the rows of the blocks behind that one."""
    steps: list[None] = []
    with closing(apsw.Connection("")) as db:
        db.execute("CREATE TABLE time_blocks (beyond INTEGER PRIMARY KEY, highest INTEGER, appended INTEGER)")
        db.executemany("INSERT INTO time_blocks VALUES (?,?,0)", [(n * 1_024, n) for n in range(1, 9_000)])
        db.set_progress_handler(lambda: bool(steps.append(None)), STEPS)
        assert db.execute(sql.BLOCK_FROM_TIME, (0, 3)).fetchone() == (3 * 1_024, None)
        assert len(steps) < 10
        assert db.execute(sql.BLOCK_FROM_TIME, (0, 9_000)).fetchone() == (None, 8_999 * 1_024)
        assert len(steps) > 100
