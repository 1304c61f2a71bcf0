"""Compaction of the SQLite engine's files: against a dict, interrupted, under holds, and what is damage."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from blackbox.small_disk import SIZE_BYTES, filler, small_disk
from storage.support import Store, alter, freeze, run_sql
from takhin import topic_configs
from takhin.copies.verify import verify
from takhin.disk.connection import open_scratch
from takhin.errors import PartitionUnavailableError, UnknownTopicError
from takhin.model import CleanupPolicy, Header
from takhin.settings import Settings
from takhin.storage.sqlite import compactor, key_map
from takhin.testing.contract import ALL, NOW, Stored, batch, read_all, spec

HOUR = 3_600_000
COMPACT = replace(topic_configs.DEFAULTS, cleanup_policy=(CleanupPolicy.COMPACT,), delete_retention_ms=HOUR)

Group = Sequence[tuple[bytes | None, bytes | None]]
"""The records of one commit group: keys and values."""

keys = st.sampled_from([b"", b"a", b"b", b"c", b"long" * 5_000, None])
values = st.sampled_from([None, None, b"", b"v", b"w" * 3_000])
groups = st.lists(st.lists(st.tuples(keys, values), min_size=1, max_size=5), min_size=1, max_size=12)


@pytest.fixture
async def store(tmp_path):
    opened = Store(tmp_path / "data")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def small_steps(monkeypatch):
    """A pass over a few records takes many steps."""
    monkeypatch.setattr(key_map, "SLICE_RECORDS", 4)
    monkeypatch.setattr(key_map, "STEP_RECORDS", 2)


async def filled(store, name="t", records=100, keys=7):
    """The log of a new topic with `records` records, each a commit group, of `keys` keys in turn."""
    log = (await store.engine.create_topic(spec(name, config=COMPACT))).partitions[0]
    for n in range(records):
        headers = {0: [Header("n", b"%d" % n)]}
        await log.append(batch(b"%d" % n, keys=[b"%d" % (n % keys)], headers=headers))
    return log


def last_of_each(rows: Sequence[Stored]) -> dict[bytes, bytes]:
    """What a fresh reader makes of a log."""
    state: dict[bytes, bytes] = {}
    for _, _, key, value, _ in rows:
        if key is not None and value is not None:
            state[key] = value
        elif key is not None:
            state.pop(key, None)
    return state


def expected(rows: Sequence[Stored], *, last_group: int, tombstones_below: int = 0) -> list[Stored]:
    """What one pass leaves of these records."""
    last = {row[2]: row[0] for row in rows}
    return [
        row
        for row in rows
        if row[0] >= last_group
        or (
            (row[2] is not None and last[row[2]] == row[0])
            and (row[3] is not None or row[0] >= tombstones_below)
        )
    ]


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

    with tempfile.TemporaryDirectory() as folder:
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


@pytest.mark.parametrize(("deleted", "read_from"), [(95, 95), (100, 98)])
async def test_a_record_that_another_program_deleted_above_a_pass_is_missed(tmp_path, deleted, read_from):
    """A read stops at it, as no pass can have removed it, and takhin verify finds it."""
    store = await compacted(tmp_path)
    alter(path_of(store), f"DELETE FROM records WHERE offset = {deleted + 4}")
    assert "densely" in str(faults(store))
    await store.open()
    with pytest.raises(PartitionUnavailableError, match=f"{deleted + 4}"):
        await read_all(store.log("t"))
    await store.engine.close()


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


def path_of(store: Store) -> Path:
    return store.data_dir / "topics" / "t" / "0.db"


def faults(store: Store) -> list[str]:
    return [fault for of in verify(store.data_dir).partitions for fault in of.faults]


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
