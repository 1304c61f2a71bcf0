"""What the SQLite engine still has after a close or a crash, and what a shell sees meanwhile."""

from __future__ import annotations

import asyncio
import gc
import resource
from pathlib import Path

import pytest

from storage.support import Store, run_sql
from takhin.errors import (
    OffsetOutOfRangeError,
    OutOfSequenceError,
    PartitionUnavailableError,
    StorageFullError,
)
from takhin.model import Batch, CommittedOffset, Header, TimestampType, TopicConfig
from takhin.storage.conditions import BATCHES_REMEMBERED
from takhin.storage.sqlite.times import BLOCK_RECORDS
from takhin.testing.contract import (
    ALL,
    NOW,
    as_expected,
    batch,
    name_of,
    numbered,
    read_all,
    spec,
    timed,
    under,
)

EVERY = bytes(range(256))


def one_of_each() -> Batch:
    """Records with everything that is easily lost: absent and empty parts, bytes, repeats, order."""
    return batch(
        *(None, b"", EVERY, b"x" * (1 << 20), b"last"),
        keys=[None, b"", EVERY, b"k", b"\x00"],
        timestamps=[NOW, 0, NOW - 1, (1 << 63) - 1, 5],
        headers={2: [Header("ключ", EVERY), Header("a", b""), Header("ключ", b"2")], 4: [Header("z", b"")]},
    )


@pytest.fixture(params=[Store.reopen, Store.crash], ids=["closed", "crashed"])
def reopened(request: pytest.FixtureRequest):
    """How the engine ends before it is opened again."""
    return request.param


async def test_records_are_there_again(store: Store, reopened):
    """Every record comes back byte for byte, at its offset, and the log continues behind it."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    sent = one_of_each()
    await log.append(sent)
    await log.append(numbered(3_000))
    expected = as_expected(sent, 0) + as_expected(numbered(3_000), 5)
    await reopened(store)
    log = store.log("orders")
    assert (log.start_offset, log.end_offset, log.closed) == (0, 3_005, False)
    assert await read_all(log) == expected
    assert (await log.append(numbered(1))).offset == 3_005


async def test_records_that_were_acknowledged_together(store: Store, reopened):
    """Batches of one commit group, over several partitions, are all there again."""
    logs = (await store.engine.create_topic(spec("orders", 3))).partitions
    await asyncio.gather(*(log.append(numbered(7, n)) for n in range(50) for log in logs))
    before = [await read_all(log) for log in logs]
    await reopened(store)
    assert [await read_all(store.log("orders", n)) for n in range(3)] == before


async def test_a_trimmed_log_begins_where_it_did(store: Store, reopened):
    """The start survives, and offsets below it are still refused."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(numbered(10))
    await log.trim(4)
    await reopened(store)
    log = store.log("orders")
    assert (log.start_offset, log.end_offset) == (4, 10)
    assert [row[3] for row in await read_all(log)] == [b"%d" % n for n in range(4, 10)]
    with pytest.raises(OffsetOutOfRangeError):
        await log.read(3, **ALL)


async def test_no_offset_is_given_twice(store: Store, reopened):
    """A log that was trimmed to nothing keeps counting, however often it is opened again."""
    await store.engine.create_topic(spec("orders"))
    for n in range(4):
        log = store.log("orders")
        assert (log.start_offset, log.end_offset) == (5 * n, 5 * n)
        assert (await log.append(numbered(5))).offset == 5 * n
        await log.trim(5 * n + 5)
        await reopened(store)


async def test_committed_offsets_are_there_again(store: Store, reopened):
    """Committed offsets come back with metadata and time, and forgotten ones do not."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(numbered(5))
    commits = {"billing": CommittedOffset(5, "é\n🦆", NOW), "it's": CommittedOffset(0, "", NOW + 1)}
    for group_id, committed in commits.items():
        await store.engine.offsets.commit(group_id, {name_of(log): committed})
    await store.engine.offsets.commit("gone", {name_of(log): CommittedOffset(1, "", NOW)})
    await store.engine.offsets.forget("gone")
    await reopened(store)
    offsets = store.engine.offsets
    assert {group_id: offsets.of(group_id) for group_id in offsets.groups()} == {
        group_id: {name_of(log): committed} for group_id, committed in commits.items()
    }


async def test_producers_are_remembered(store: Store, reopened):
    """The last batches of producers are recognised again, as far back as before, and the next is accepted."""
    await store.engine.create_topic(spec("orders"))
    for n in range(BATCHES_REMEMBERED + 2):
        sent = under(numbered(3), b"p", 3 * n)
        landed = await store.log("orders").append(sent)
        await reopened(store)
        assert await store.log("orders").append(sent) == landed._replace(duplicate=True)
    log = store.log("orders")
    assert (await log.append(under(numbered(3), b"p", 6))).offset == 6
    with pytest.raises(OutOfSequenceError, match="last 5 batches, from 6 on"):
        await log.append(under(numbered(3), b"p", 3))
    assert log.end_offset == 21


async def test_as_many_producers_are_remembered_as_before(tmp_path: Path, reopened):
    """The number of producers is restored: a fourth one replaces the one of three that was silent longest."""
    store = Store(tmp_path / "data", producers_max=3)
    await store.open()
    await store.engine.create_topic(spec("orders"))
    for n, producer_id in enumerate((b"p", b"q", b"r", b"s")):
        await reopened(store)
        assert (await store.log("orders").append(under(numbered(1), producer_id))).offset == n
    log = store.log("orders")
    assert [(await log.append(under(numbered(1), p))).duplicate for p in (b"q", b"r", b"s")] == [True] * 3
    assert not (await log.append(under(numbered(1), b"p"))).duplicate
    await store.close()


async def test_topics_are_there_again(store: Store, reopened):
    """Names, ids, configs and partitions come back unchanged, and deleted topics do not."""
    configs = {
        "orders": TopicConfig(7, TimestampType.LOG_APPEND_TIME),
        "x" * 249: TopicConfig(1 << 30),
        "...": TopicConfig(1),
    }
    for n, (name, config) in enumerate(configs.items()):
        await store.engine.create_topic(spec(name, n + 1, config))
    await store.engine.create_topic(spec("gone"))
    await store.engine.delete_topic("gone")

    def facts() -> object:
        return {
            topic.name: (topic.topic_id, topic.config, [log.incarnation_id for log in topic.partitions])
            for topic in store.engine.topics.values()
        }

    before = facts()
    await reopened(store)
    assert facts() == before
    assert {name: topic.config for name, topic in store.engine.topics.items()} == configs


async def test_search_by_time_goes_on(store: Store, reopened):
    """Times from before and after a restart are found, even if a later record has a lower time."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(timed(100, 900))
    await reopened(store)
    log = store.log("orders")
    await log.append(timed(200))
    await log.append(timed(1_000))
    found = [(await log.offset_for_time(at)).offset for at in (0, 101, 900, 901, 1_000, 1_001)]
    assert found == [0, 1, 1, 3, 3, 4]


async def test_search_by_time_is_exact_around_index_rows(store: Store, reopened):
    """Times are found exactly wherever the index has rows, even after a clock was set back."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    stamps: list[int] = []
    for size in (1, BLOCK_RECORDS - 1, 1, 700, 700, 3 * BLOCK_RECORDS, 5, BLOCK_RECORDS, 1):
        # It rises by 10, then falls back by half of that.
        group = [10 * (len(stamps) + n) // 2 if size == 700 else 10 * (len(stamps) + n) for n in range(size)]
        await log.append(timed(*group))
        stamps += group
    await reopened(store)
    log = store.log("orders")
    await log.append(timed(10 * len(stamps)))
    stamps.append(10 * len(stamps))
    for wanted in {max(0, stamp + d) for stamp in stamps[::97] for d in (-5_000, -1, 0, 1)}:
        expected = next((at for at, stamp in enumerate(stamps) if stamp >= wanted), len(stamps))
        assert (await log.offset_for_time(wanted)).offset == expected


async def test_a_clean_close_leaves_database_files_alone(store: Store):
    """A close leaves no write-ahead log: the .db files hold everything, and copying them is enough."""
    log = (await store.engine.create_topic(spec("orders", 2))).partitions[0]
    await log.append(numbered(5_000))
    await store.close()
    left = sorted(
        str(path.relative_to(store.data_dir)) for path in store.data_dir.rglob("*") if path.is_file()
    )
    assert [name for name in left if name.startswith("topics")] == [
        "topics/orders/0.db",
        "topics/orders/1.db",
    ]
    assert not [name for name in left if name.endswith(("-wal", "-shm"))]
    await store.open()


async def test_leftovers_of_a_crash_are_swept(store: Store):
    """Topics that were being created or deleted when the broker died do not exist, and are cleared away."""
    await store.engine.create_topic(spec("orders"))
    await store.close()
    leftover = store.data_dir / "tmp" / "half-made"
    leftover.mkdir(parents=True)
    (leftover / "0.db").write_bytes(b"")
    await store.open()
    assert list(store.engine.topics) == ["orders"]
    assert not leftover.exists()


async def test_a_create_that_failed_does_not_spoil_the_next(store: Store):
    """A topic without room for its files does not exist, and can be created when there is room."""
    unbounded = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, unbounded[1]))  # bytes per file, also in children
    try:
        with pytest.raises((PartitionUnavailableError, StorageFullError)):
            await store.engine.create_topic(spec("orders"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unbounded)
    assert list(store.engine.topics) == []
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    assert (await log.append(numbered(1))).offset == 0


async def test_a_shell_can_look_in(store: Store):
    """Another SQLite reads a partition that is being written, and costs the engine nothing."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(numbered(3))
    path = store.data_dir / "topics/orders/0.db"
    assert run_sql(path, "SELECT count(*) FROM records") == "3"
    await log.append(numbered(2))
    assert run_sql(path, "SELECT end_offset FROM log") == "5"
    assert path.with_name("0.db-wal").exists()
    await store.crash()
    assert store.log("orders").end_offset == 5


async def test_a_stop_right_after_a_hold_leaves_database_files_alone(store: Store):
    """After a hold that was removed just before the stop, write-ahead logs are checkpointed as usual."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(numbered(5))
    (store.data_dir / "hold").touch()
    await store.engine._parts.upkeep.look_at_hold()
    assert (store.data_dir / "held").exists()
    await log.append(numbered(5, 5))
    (store.data_dir / "hold").unlink()
    await store.close()
    assert [path.name for path in (store.data_dir / "topics/orders").iterdir()] == ["0.db"]
    await store.open()
    assert store.log("orders").end_offset == 10


async def test_a_refused_change_whose_caller_has_gone(store: Store):
    """A refused change whose caller is gone does not log an exception that was never retrieved."""
    said = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(context))
    await store.engine.create_topic(spec("orders"))
    before = asyncio.create_task(store.engine.create_topic(spec("before")))  # changes are made one at a time
    leaving = asyncio.create_task(store.engine.create_topic(spec("orders")))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})
    assert leaving.cancelled()
    await before
    await store.engine.create_topic(spec("after"))
    del leaving
    gc.collect()
    assert said == []


async def test_a_start_and_a_stop_rewrite_nothing(store: Store):
    """A folder that was stopped cleanly, then started, read and stopped again, has the same bytes."""
    topic = await store.engine.create_topic(spec("orders", 2))
    for log in topic.partitions:
        await log.append(numbered(100))
        await store.engine.offsets.commit("billing", {name_of(log): CommittedOffset(5, "", NOW)})
    await topic.partitions[0].trim(10)
    await store.close()
    before = contents(store.data_dir)
    await store.open()
    assert len(await read_all(store.log("orders", 1))) == 100
    assert store.engine.offsets.groups() == ["billing"]
    await store.close()
    assert contents(store.data_dir) == before
    await store.open()


def contents(data_dir: Path) -> dict[Path, bytes]:
    """The bytes of every partition file of a folder that nobody has open."""
    return {path: path.read_bytes() for path in sorted((data_dir / "topics").rglob("*")) if path.is_file()}
