"""`recover` on a log that was compacted: gaps are no loss, and what is lost is told."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from faults.pages import pages_of
from storage.support import Store, alter
from takhin.copies.recover import recover
from takhin.copies.verify import verify
from takhin.model import CleanupPolicy, TopicConfig
from takhin.testing.contract import NOW, batch, read_all, spec

PAGE = 16_384
LEAF = 13
"""The first byte of a page of records (sqlite.org/fileformat2.html, 1.6)."""
CONFIG = TopicConfig(1 << 20, cleanup_policy=(CleanupPolicy.COMPACT,))
RECORDS, KEYS = 600, 250
BOTH = ("compactions", "compaction_history")


def made(folder: Path) -> Store:
    """A closed store with a compacted log: most of its last `KEYS` records are left, and ten behind them."""
    store = Store(folder / "data")

    async def make() -> None:
        await store.open()
        log = (await store.engine.create_topic(spec("t", config=CONFIG))).partitions[0]
        for n in range(RECORDS):
            await log.append(batch(b"<%d>" % n * 100, keys=[b"%d" % (n * n % KEYS)]))
        await log.compact(CONFIG, NOW)
        for _ in range(10):
            await log.append(batch(b"last", keys=[b"last"]))
        await store.close()

    asyncio.run(make())
    return store


def rows(store: Store) -> list:
    async def read() -> list:
        await store.open()
        try:
            log = store.log("t")
            found = await read_all(log)
            assert log.record_count == len(found)
            return found
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_whole_log_needs_nothing(tmp_path):
    """Its gaps are no damage."""
    store = made(tmp_path)
    assert verify(store.data_dir).ok
    assert recover(store.data_dir) == []


def test_a_damaged_page_costs_its_records_alone(tmp_path):
    """All others are kept at their offsets, the file is whole again, and the log is compacted on."""
    store = made(tmp_path)
    before = {row[0]: row for row in rows(store)}
    path = store.data_dir / "topics" / "t" / "0.db"
    whole = path.read_bytes()
    for hit in range(1, len(whole) // PAGE):  # until a page of records is hit that is in use
        touched = whole[hit * PAGE : (hit + 1) * PAGE]
        if touched[0] == LEAF and re.search(rb"<\d+>", touched):
            damaged = bytearray(whole)
            damaged[hit * PAGE + 8_000 : hit * PAGE + 8_100] = b"x" * 100
            path.write_bytes(damaged)
            if not verify(store.data_dir).ok:
                break
    (told,) = recover(store.data_dir)
    assert verify(store.data_dir).ok
    after = {row[0]: row for row in rows(store)}
    assert after.items() <= before.items()
    missing = before.keys() - after.keys()
    assert missing
    assert all(b"<%d>" % offset in touched for offset in missing)
    assert missing <= {offset for lost in told.lost for offset in range(*lost)}


def test_what_another_program_deleted_is_found(tmp_path):
    """It cannot be known which record it was; the others stay."""
    store = made(tmp_path)
    before = rows(store)
    path = store.data_dir / "topics" / "t" / "0.db"
    gone = before[len(before) // 2][0]
    alter(path, f"DELETE FROM records WHERE offset = {gone}")
    assert not verify(store.data_dir).ok
    recover(store.data_dir)
    assert verify(store.data_dir).ok
    assert [row[0] for row in rows(store)] == [row[0] for row in before if row[0] != gone]


@pytest.mark.parametrize(("tables", "said"), [(("compactions",), False), (BOTH, True)])
def test_a_log_whose_gaps_are_no_longer_told_keeps_them(tmp_path, tables, said):
    """How far compaction had come is taken from its passes; without them, the log has gaps anywhere."""
    store = made(tmp_path)
    before = rows(store)
    path = store.data_dir / "topics" / "t" / "0.db"
    damaged = bytearray(path.read_bytes())
    for page in pages_of(path):
        if page.table in tables:
            damaged[(page.number - 1) * PAGE : page.number * PAGE] = b"\xa5" * PAGE
    path.write_bytes(damaged)
    (told,) = recover(store.data_dir)
    assert not told.lost
    assert ("where compaction has been" in str(told)) is said
    assert verify(store.data_dir).ok
    assert rows(store) == before
