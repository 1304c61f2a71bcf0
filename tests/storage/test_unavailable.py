"""A partition that cannot be served is refused with its reason; all others are served, it can come back."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from takhin.schema import PAGE_BYTES, VERSION

from blackbox.clients import eventually
from storage.support import alter, check_files, sqlite_engine
from takhin.broker.consumption import consume
from takhin.broker.shared_reads import SharedReads
from takhin.broker.unsent import Unsent
from takhin.errors import PartitionUnavailableError, StartupError, UnknownTopicError
from takhin.model import CleanupPolicy, CommittedOffset, ConsumeRequest, TopicPartition
from takhin.settings import Settings
from takhin.storage.sqlite.engine import SqliteEngine
from takhin.testing.contract import ALL, NOW, batch, numbered, read_all, spec
from takhin.topic_configs import DEFAULTS

READS = SharedReads(bytes_max=1, records_max=1)

WHERE = TopicPartition("orders", 1)


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A stopped broker's folder: `orders` and `other`, of two partitions with 20 records each."""
    engine = sqlite_engine(tmp_path / "data")
    await engine.open()
    for name in ("orders", "other"):
        topic = await engine.create_topic(spec(name, 2))
        for log in topic.partitions:
            await log.append(numbered(20))
            committed = {TopicPartition(name, log.partition): CommittedOffset(7, "", NOW)}
            await engine.offsets.commit("group", committed)
    await engine.close()
    return tmp_path / "data"


def path_of(data: Path, at: TopicPartition) -> Path:
    return data / "topics" / at.topic / f"{at.partition}.db"


def flipped(path: Path, page: int) -> None:
    content = bytearray(path.read_bytes())
    content[page * PAGE_BYTES - 9_000] ^= 4
    path.write_bytes(content)


def damaged_header(path: Path) -> None:
    path.write_bytes(b"no database at all" * 9_000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - PAGE_BYTES)


def short(path: Path) -> None:
    alter(
        path, "UPDATE log SET commits = commits - 1, end_offset = 19", "DELETE FROM records WHERE offset = 19"
    )


def misplaced(path: Path) -> None:
    shutil.copyfile(path.with_name("0.db" if path.name == "1.db" else "1.db"), path)


def foreign(path: Path) -> None:
    path.unlink()
    alter(path, "CREATE TABLE t (x)")


def damaged_log_row(path: Path) -> None:
    flipped(path, 4)


def damaged_committed(path: Path) -> None:
    flipped(path, 10)


def impossible(path: Path) -> None:
    alter(path, "UPDATE log SET topic_id = 'none'")


def text_for_numbers(path: Path) -> None:
    """A file from elsewhere: its table was STRICT only after a text was put in a number's place."""
    alter(
        path,
        "CREATE TEMP TABLE strict AS SELECT sql FROM sqlite_schema WHERE name = 'log'",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')') WHERE name = 'log'",
        "PRAGMA writable_schema = RESET",
        "UPDATE log SET end_offset = 'no number'",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = (SELECT sql FROM strict) WHERE name = 'log'",
    )


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


TROUBLES = [
    damaged_header,
    empty,
    missing,
    cut_short,
    short,
    misplaced,
    foreign,
    damaged_log_row,
    damaged_committed,
    impossible,
    text_for_numbers,
    link_to_itself,
    a_folder,
]


async def refused(engine: SqliteEngine, at: TopicPartition) -> str:
    """That everything about a partition is refused in the same words, which are returned."""
    log = engine.topics[at.topic].partitions[at.partition]
    with pytest.raises(PartitionUnavailableError) as caught:
        log.append(batch(b"x"))
    for question in (
        log.read(0, **ALL),
        log.offset_for_time(0),
        log.trim(0),
        anext(consume(log, ConsumeRequest(*at, 0), READS, Unsent(1), Settings())),
        engine.offsets.commit("group", {at: CommittedOffset(1, "", NOW)}),
    ):
        with pytest.raises(PartitionUnavailableError) as other:
            await question
        assert str(other.value) == str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_the_others_are_served(trouble: Callable[[Path], None], data: Path):
    """One partition is refused with its reason, and health says so; strict refuses the start instead."""
    trouble(path_of(data, WHERE))
    path = path_of(data, WHERE)
    left = path.read_bytes() if path.is_file() else None
    with pytest.raises((StartupError, OSError)):
        await sqlite_engine(data, strict=True).open()
    engine = sqlite_engine(data)
    await engine.open()
    reason = await refused(engine, WHERE)
    assert str(path_of(data, WHERE)) in reason
    assert list(engine.troubles) == [reason]
    for at in (TopicPartition("orders", 0), TopicPartition("other", 0), TopicPartition("other", 1)):
        log = engine.topics[at.topic].partitions[at.partition]
        assert len(await read_all(log)) == 20
        assert (await log.append(batch(b"more"))).offset == 20
    await engine.close()
    assert left == (path.read_bytes() if path.is_file() else None)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_without_partition_0(trouble: Callable[[Path], None], data: Path):
    """A topic that nothing describes is not served; it can be deleted, and made again."""
    trouble(path_of(data, TopicPartition("orders", 0)))
    engine = sqlite_engine(data)
    await engine.open()
    await refused(engine, TopicPartition("orders", 0))
    if trouble not in (damaged_committed, short, damaged_log_row):
        assert "partition 0 describes the topic" in await refused(engine, WHERE)
    assert len(engine.troubles) == 1
    assert len(await read_all(engine.topics["other"].partitions[0])) == 20
    await engine.delete_topic("orders")
    assert not engine.troubles
    assert not (data / "topics/orders").exists()
    await engine.create_topic(spec("orders"))
    await engine.close()
    check_files(data)


async def test_what_is_known_stays_known(data: Path):
    """The ends and committed offsets of a damaged log are known as far as they can be read."""
    flipped(path_of(data, WHERE), 7)  # a root page: it cannot be opened, but says how far it reaches
    engine = sqlite_engine(data)
    await engine.open()
    log = engine.topics["orders"].partitions[1]
    with pytest.raises(PartitionUnavailableError):
        log.check_available()
    assert (log.start_offset, log.end_offset) == (0, 20)
    assert engine.offsets.of("group")[WHERE].offset == 7
    await engine.close()


async def served(engine: SqliteEngine, at: TopicPartition):
    """The log, once it is served."""
    async with asyncio.timeout(20):
        while True:
            log = engine.topics[at.topic].partitions[at.partition]
            try:
                log.check_available()
            except PartitionUnavailableError:
                await asyncio.sleep(0.02)
            else:
                return log


@pytest.mark.parametrize("partition", [0, 1])
async def test_a_file_that_is_put_back_is_served(data: Path, partition: int, tmp_path: Path):
    """The broker takes a partition back when a whole file is in its place, without a restart."""
    at = TopicPartition("orders", partition)
    path_of(data, at).rename(tmp_path / "away.db")
    engine = sqlite_engine(data, recover_wait_ms=20)
    await engine.open()
    await refused(engine, at)
    shutil.copyfile(tmp_path / "away.db", path_of(data, at))
    assert len(await read_all(await served(engine, at))) == 20
    assert not engine.troubles
    log = await served(engine, WHERE)
    assert (await log.append(batch(b"x"))).offset == 20
    await engine.close()
    check_files(data)


NOBODY = 65_534


@contextmanager
def nobody(data: Path) -> Iterator[None]:
    """Within the block only the modes of a folder's files say what may be read, also for root."""
    if os.geteuid():
        yield
        return
    for path in (data.parent, data, *data.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["orders", "orders/0.db", "orders/1.db"])
async def test_what_may_not_be_read(data: Path, name: str):
    """A folder or a file without permissions keeps nothing else from being served, and comes back."""
    at = WHERE if name == "orders/1.db" else TopicPartition("orders", 0)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        shutil.copytree(data, moved := Path(folder, "data"))
        path = moved / "topics" / name
        with nobody(moved):
            mode = path.stat().st_mode
            path.chmod(0)
            engine = sqlite_engine(moved, recover_wait_ms=20)
            await engine.open()
            assert str(path) in await refused(engine, at)
            assert len(await read_all(engine.topics["other"].partitions[1])) == 20
            path.chmod(mode)
            assert len(await read_all(await served(engine, at))) == 20
            async with asyncio.timeout(20):
                while engine.troubles:  # noqa: ASYNC110  the other partition comes back by itself, too
                    await asyncio.sleep(0.01)
            await engine.close()


async def test_a_newer_file_is_put_in_place(data: Path, tmp_path: Path):
    """A running broker refuses a topic with a later Takhin's file as a whole, and takes it back later."""
    first = TopicPartition("orders", 0)
    path = path_of(data, first)
    path.rename(tmp_path / "away.db")
    shutil.copyfile(tmp_path / "away.db", newer := tmp_path / "newer.db")
    alter(newer, f"PRAGMA user_version = {VERSION + 1}")
    newer = newer.rename(newer.with_name("0.new"))
    engine = sqlite_engine(data, recover_wait_ms=20)
    await engine.open()
    newer.rename(path)
    await asyncio.to_thread(eventually, lambda: "use the newer Takhin" in "".join(engine.troubles))
    assert "use the newer Takhin" in await refused(engine, first)
    assert "partition 0 describes the topic" in await refused(engine, WHERE)
    path.unlink()
    shutil.copyfile(tmp_path / "away.db", path)
    assert len(await read_all(await served(engine, WHERE))) == 20
    await engine.close()
    check_files(data)


async def test_a_link_that_leads_nowhere(data: Path):
    """A link in the catalogue that leads to itself is a topic that cannot be opened."""
    (data / "topics/loop").symlink_to("loop")
    engine = sqlite_engine(data)
    await engine.open()
    assert "Too many levels of symbolic links" in await refused(engine, TopicPartition("loop", 0))
    assert len(await read_all(engine.topics["orders"].partitions[0])) == 20
    await engine.close()


@pytest.mark.parametrize("count", [-1, 0, 1 << 40])
async def test_an_impossible_partition_count(data: Path, count: int):
    """A topic that says to have so many partitions is not served, and its start takes no longer."""
    alter(path_of(data, TopicPartition("orders", 0)), f"UPDATE topic SET num_partitions = {count}")
    engine = sqlite_engine(data)
    await engine.open()
    assert f"it says that its topic has {count} partitions" in await refused(
        engine, TopicPartition("orders", 0)
    )
    await engine.close()


async def test_a_newer_file_is_refused(data: Path):
    """A later Takhin wrote it, so this is the wrong program: nothing is served."""
    alter(path_of(data, WHERE), f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(StartupError, match="use the newer Takhin that wrote it"):
        await sqlite_engine(data).open()


async def test_what_belongs_to_no_topic_is_ignored(data: Path):
    """A file system's folder, an empty one, and a copy beside the files are left alone."""
    topics = data / "topics"
    (topics / "lost+found").mkdir(mode=0)
    (topics / "nothing").mkdir()
    (topics / "0 (copy).db").write_bytes(b"")
    (topics / "orders/0 (copy).db").write_bytes(b"x")
    engine = sqlite_engine(data, strict=True)
    await engine.open()
    assert sorted(engine.topics) == ["orders", "other"]
    assert not engine.troubles
    await engine.create_topic(spec("nothing"))
    await engine.close()
    assert (topics / "orders/0 (copy).db").read_bytes() == b"x"


async def test_a_closed_log_says_that_it_is_gone(data: Path):
    """After the topic was deleted, its unavailable partition is unknown and not unavailable."""
    missing(path_of(data, WHERE))
    engine = sqlite_engine(data)
    await engine.open()
    log = engine.topics["orders"].partitions[1]
    await engine.delete_topic("orders")
    with pytest.raises(UnknownTopicError):
        log.append(batch(b"x"))
    await engine.close()


async def test_the_records_of_a_compacted_log_are_counted(data):
    """Offsets without a record are not, also while it is not served."""
    engine = sqlite_engine(data)
    await engine.open()
    log = engine.topics["orders"].partitions[1]
    for _ in range(3):
        await log.append(batch(b"v", keys=[b"k"]))
    config = replace(DEFAULTS, cleanup_policy=(CleanupPolicy.COMPACT,))
    assert await log.compact(config, NOW) > 0
    count = log.record_count
    await engine.close()
    assert count < 23
    alter(path_of(data, WHERE), "CREATE TRIGGER t AFTER INSERT ON records BEGIN SELECT 1; END")
    engine = sqlite_engine(data)
    await engine.open()
    log = engine.topics["orders"].partitions[1]
    with pytest.raises(PartitionUnavailableError):
        await log.read(0, **ALL)
    assert log.record_count == count
    await engine.close()
