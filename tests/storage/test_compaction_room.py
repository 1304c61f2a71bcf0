"""What a pass of compaction takes: memory and a temporary folder, time on threads and on the loop."""

from __future__ import annotations

import asyncio
import random
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import apsw
import pytest

from blackbox.small_disk import SIZE_BYTES, filler, small_disk
from storage.compaction_support import COMPACT, expected, filled, path_of
from storage.support import Store, run_sql
from takhin.disk.connection import open_scratch
from takhin.errors import PartitionUnavailableError
from takhin.storage.sqlite import compactor, key_map
from takhin.testing.contract import NOW, batch, read_all, spec


async def test_more_keys_than_fit_into_memory(tmp_path):
    """They go to a temporary file."""
    store = Store(tmp_path / "data", compaction_bytes_max=1 << 20)
    await store.open()
    log = (await store.engine.create_topic(spec("t", config=COMPACT))).partitions[0]
    names = [b"%0200d" % n for n in range(20_000)]
    for value in (b"1", b"2"):
        for at in range(0, len(names), 4_000):
            few = names[at : at + 4_000]
            await log.append(batch(*[value] * len(few), keys=few))
    assert await log.compact(COMPACT, NOW) == 20_000
    assert {row[3] for row in await read_all(log)} == {b"2"}
    await store.close()


FULL_TRIES = 6
"""How often the temporary folder fills up in the test, each time at another moment of a pass."""


@pytest.fixture
def temporary_folder(tmp_path):
    """A small disk where SQLite puts its temporary files."""
    with small_disk(tmp_path / "tmpfs") as disk, closing(apsw.Connection("")) as any_one:
        any_one.pragma("temp_store_directory", str(disk))
        yield disk
        any_one.pragma("temp_store_directory", "")


async def test_a_full_temporary_folder_costs_no_record(tmp_path, temporary_folder, monkeypatch):
    """A pass waits for room, says so, and then begins to read again: what it had noted is in pieces."""
    monkeypatch.setattr(compactor, "TOLD_AFTER_SECONDS", 0.0)
    store = Store(tmp_path / "data", compaction_bytes_max=1 << 20, ballast_bytes=0)
    await store.open()
    names = [b"%0100d" % n for n in range(20_000)]
    chance = random.Random(3)
    for number in range(FULL_TRIES):
        log = (await store.engine.create_topic(spec(f"t{number}", config=COMPACT))).partitions[0]
        for _ in range(20):
            few = chance.choices(names, k=2_000)
            await log.append(batch(*[b"v"] * len(few), keys=few))
        before = await read_all(log)
        with filler(temporary_folder, SIZE_BYTES - (number + 1) * 250_000):
            task = asyncio.create_task(log.compact(COMPACT, NOW))
            async with asyncio.timeout(10):
                while not store.engine.troubles:  # noqa: ASYNC110  nobody tells that it waits
                    await asyncio.sleep(0.01)
        assert "temporary folder" in store.engine.troubles[0]
        await task
        assert not store.engine.troubles
        assert await read_all(log) == expected(before, last_group=38_000)
    await store.close()


async def test_a_pass_without_room_for_its_keys_begins_to_read_again(store, monkeypatch):
    """With another key map: the one that has failed may have noted a part."""
    log = await filled(store)
    made: list[apsw.Connection] = []

    def bounded(*, cache_kib):
        made.append(open_scratch(cache_kib=cache_kib))
        if len(made) == 1:  # 3 pages are taken when it is new
            made[0].pragma("max_page_count", 3)
        return made[-1]

    monkeypatch.setattr(key_map, "open_scratch", bounded)
    for n in range(60):
        await log.append(batch(b"v", keys=[b"%0400d" % n]))
    before = await read_all(log)
    await log.compact(COMPACT, NOW)
    assert len(made) == 2
    assert await read_all(log) == expected(before, last_group=159)


async def test_a_damaged_file_ends_a_pass_by_name(tmp_path):
    """It is not taken for a lack of room: nothing is tried again."""
    store = Store(tmp_path / "data")
    await store.open()
    log = await filled(store)
    for first in range(0, 4_400, 1_100):
        values = [b"<n %d>" % n * 10 for n in range(first, first + 1_100)]
        await log.append(batch(*values, keys=[b"key"] * len(values)))
    await store.close()
    damage_records(path_of(store))
    await store.open()
    log = store.log("t")
    with pytest.raises(PartitionUnavailableError, match="damaged"):
        await log.compact(COMPACT, NOW)
    assert "compaction of t/0 has failed: the file of topic 't' partition 0 is damaged" in str(
        store.engine.troubles
    )
    await store.engine.close()


async def test_keys_are_chosen_a_slice_at_a_time(store, small_steps):
    """So that other files can be closed, and copied into, in between; empty and long keys are among them."""
    log = (await store.engine.create_topic(spec("t", config=COMPACT))).partitions[0]
    names = [b"", b"long" * 5_000, b"longer" * 400_000, *(b"%d" % n for n in range(20))]
    for value in (b"1", None, b"3"):
        for name in names:
            await log.append(batch(value, keys=[name]))
    before = await read_all(log)
    assert await log.compact(COMPACT, NOW) == 2 * len(names)
    assert await read_all(log) == expected(before, last_group=3 * len(names) - 1)


async def test_a_slice_is_bounded_in_bytes(store):
    """Of long keys few are read at once, of long records few are removed; one is never too many."""
    share = key_map.Share(1_000, 100)
    lengths = [1] * 10 + [90] * 5 + [500] + [1] * 200
    at, slices = 0, []
    while at < len(lengths):

        def weigh(limit, at=at):
            few = lengths[at : at + limit]
            return len(few), sum(few)

        _, rows = share.take(weigh)
        slices.append(lengths[at : at + rows])
        at += rows
    assert all(sum(few) <= 100 or few == [500] for few in slices)
    assert len(slices) < 20


async def test_long_keys_leave_others_their_turn(store, monkeypatch):
    """They are checked on the loop, since they may have lost a page, for some ms at a time."""
    monkeypatch.setattr(compactor, "TURN_SECONDS", 0.0)
    log = (await store.engine.create_topic(spec("t", config=COMPACT))).partitions[0]
    for _ in range(30):
        await log.append(batch(b"v", keys=[b"k" * 40_000]))
    checked: list[int] = []
    turns: list[int] = []
    check = compactor.check_offset

    def counted(db, offset):
        checked.append(offset)
        check(db, offset)

    monkeypatch.setattr(compactor, "check_offset", counted)
    task = asyncio.create_task(log.compact(COMPACT, NOW))
    while not task.done():
        turns.append(len(checked))
        await asyncio.sleep(0)
    assert max(b - a for a, b in pairwise(turns)) == 1
    assert turns[-1] == 30


async def test_blocks_of_times_go_with_their_records(store):
    """A search by time looks into no block in vain: what is left of a block tells how late it is."""
    log = (await store.engine.create_topic(spec("t", config=COMPACT))).partitions[0]
    for at in range(0, 20_480, 1_024):
        keys = [b"%d" % (n % 10) for n in range(1_023)]
        times = [NOW + at + n for n in range(1_024)]
        await log.append(batch(*[b"v"] * 1_024, keys=[*keys, b"own %d" % (at // 4_096)], timestamps=times))
    await log.append(batch(b"v", keys=[b"a"], timestamps=[NOW + 30_000]))
    await log.compact(COMPACT, NOW)
    await log.append(batch(b"v", keys=[b"z"], timestamps=[NOW + 30_000]))
    kept = await read_all(log)
    rows = run_sql(log.path, "SELECT beyond, highest FROM time_blocks ORDER BY beyond").splitlines()
    blocks = [tuple(map(int, row.split("|"))) for row in rows]
    assert len(blocks) == 5
    for (begin, _), (beyond, highest) in pairwise([(0, 0), *blocks]):
        assert highest == max(row[1] for row in kept if begin <= row[0] < beyond)
    for time in (0, NOW + 1, NOW + 5_000, NOW + 20_000, NOW + 20_480, NOW + 30_000):
        first = next(row for row in kept if row[1] >= time)
        assert await log.offset_for_time(time) == (first[0], first[1])
    await store.reopen()
    assert await store.log("t").offset_for_time(NOW + 5_000) == next(
        row[:2] for row in kept if row[1] >= NOW + 5_000
    )


def damage_records(path: Path) -> None:
    """Change a byte on a page of records of a closed file."""
    content = bytearray(path.read_bytes())
    pages = range(16_384, len(content), 16_384)
    first = next(at for at in pages if content[at] == 13 and b"<n 1500>" in content[at : at + 16_384])
    content[content.index(b"<n 1500>", first)] ^= 0xFF
    path.write_bytes(content)
