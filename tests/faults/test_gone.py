"""Files that are removed, replaced or moved under a running engine: no acknowledgement, a named failure."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from storage.support import refused, sqlite_engine
from takhin.errors import OutcomeUnknownError, PartitionUnavailableError, StartupError
from takhin.storage.sqlite.upkeep import Upkeep
from takhin.testing.contract import numbered, read_all, spec

SETTINGS = {"ballast_bytes": 0, "free_bytes_low": 0}


async def started(data: Path):
    """An engine with five records in each of two partitions."""
    opened = sqlite_engine(data, **SETTINGS)
    await opened.open()
    topic = await opened.create_topic(spec("orders", 2))
    for log in topic.partitions:
        await log.append(numbered(5))
    return opened


@pytest.fixture
async def engine(tmp_path):
    opened = await started(tmp_path / "data")
    yield opened
    await opened.close()


@pytest.fixture
def log(engine):
    return engine.topics["orders"].partitions[0]


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    """Put a copy in its place, as `cp` and an editor do."""
    copy = path.with_name("copy")
    copy.write_bytes(b"")
    shutil.copystat(path, copy)
    copy.rename(path)


def move(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


@pytest.mark.parametrize("harm", [remove, replace, move])
@pytest.mark.parametrize("name", ["0.db", "0.db-wal", "0.db-shm"])
async def test_nothing_is_acknowledged(engine, log, harm, name):
    """A commit into a file that is gone is not acknowledged; later writes and reads are refused by name."""
    harm(log.path.with_name(name))
    with pytest.raises((OutcomeUnknownError, PartitionUnavailableError), match="removed or replaced"):
        await log.append(numbered(1, 1))
    assert any(name in sentence for sentence in engine.troubles) or harm is move
    with pytest.raises(PartitionUnavailableError, match="removed or replaced"):
        await log.read(0, max_bytes=1, max_records=1)
    with pytest.raises(PartitionUnavailableError, match="removed or replaced"):
        log.append(numbered(1, 1))
    if harm is not move:
        other = engine.topics["orders"].partitions[1]
        assert (await other.append(numbered(1, 1))).offset == 5


async def noticed(engine) -> None:
    """Look at every place once, as the watch does."""
    upkeep: Upkeep = engine._parts.upkeep
    await upkeep.look_at_places()


@pytest.mark.parametrize("harm", [remove, replace, move])
async def test_a_partition_that_nobody_uses(engine, log, harm):
    """The watch sees that a file is gone which nobody uses, whether it is open or closed."""
    engine._parts.shared.files._files_max = 1
    other = engine.topics["orders"].partitions[1]
    await other.append(numbered(1, 1))
    await log.append(numbered(1, 1))
    for _ in range(100):
        if not other._file.is_open:
            break
        await asyncio.sleep(0)
    harm(other.path)
    await noticed(engine)
    assert any("partition 1" in sentence for sentence in engine.troubles)
    with pytest.raises(PartitionUnavailableError, match=r"1\.db"):
        await other.read(0, max_bytes=1, max_records=1)


async def test_one_who_waits_is_told(engine, log):
    """A consumer that waits for the log to grow gets the error when the file is found gone."""
    waiting = asyncio.ensure_future(log.grown(5))
    await asyncio.sleep(0)
    remove(log.path)
    await noticed(engine)
    with pytest.raises(PartitionUnavailableError, match="removed or replaced"):
        await waiting


async def test_another_file_in_its_place_stays_untouched(tmp_path):
    """Neither a checkpoint nor the end touches the files that have taken the names of an open one."""
    engine = await started(tmp_path / "data")
    log = engine.topics["orders"].partitions[0]
    for name in ("0.db", "0.db-wal"):
        replace(log.path.with_name(name))
    with pytest.raises((OutcomeUnknownError, PartitionUnavailableError)):
        await log.append(numbered(1, 1))
    await engine.close()
    assert log.path.read_bytes() == b""
    assert log.path.with_name("0.db-wal").read_bytes() == b""


async def test_what_was_put_back_is_whole(tmp_path):
    """After the folder is moved back, the next start finds every acknowledged record."""
    engine = await started(tmp_path / "data")
    log = engine.topics["orders"].partitions[0]
    move(log.path)
    with pytest.raises((OutcomeUnknownError, PartitionUnavailableError)):
        await log.append(numbered(1, 1))
    await engine.close()
    (tmp_path / "data/topics/moved").rename(tmp_path / "data/topics/orders")
    again = sqlite_engine(tmp_path / "data", **SETTINGS)
    await again.open()
    assert len(await read_all(again.topics["orders"].partitions[0])) in (5, 6)
    await again.close()


async def test_a_topic_whose_folder_is_gone_can_be_deleted(engine, log):
    """Deleting it, and creating it again, mends what `rm -r` has done."""
    shutil.rmtree(log.path.parent)
    with pytest.raises((OutcomeUnknownError, PartitionUnavailableError)):
        await log.append(numbered(1, 1))
    await engine.delete_topic("orders")
    assert not any("orders" in sentence for sentence in engine.troubles)
    topic = await engine.create_topic(spec("orders", 1))
    assert (await topic.partitions[0].append(numbered(1))).offset == 0


@pytest.mark.parametrize("name", ["LOCK", "witness"])
@pytest.mark.parametrize("harm", [remove, replace])
async def test_lock_and_witness_are_put_back(engine, log, tmp_path, name, harm):
    """LOCK and the witness are made again: a second broker is refused, and a lost log is noticed."""
    data = tmp_path / "data"
    harm(data / name)
    await noticed(engine)
    with pytest.raises(StartupError, match=str(os.getpid())):
        await sqlite_engine(data, **SETTINGS).open()
    await log.append(numbered(1, 1))
    crashed = tmp_path / "crashed"
    shutil.copytree(
        data, crashed, ignore=lambda _, names: [each for each in names if each.startswith("0.db-")]
    )
    await refused(crashed, "is short", **SETTINGS)


async def test_a_second_broker_got_in(engine, log, tmp_path):
    """If another broker has taken the folder after LOCK was removed, this one takes no more writes."""
    data = tmp_path / "data"
    remove(data / "LOCK")
    with (data / "LOCK").open("w") as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        await noticed(engine)
        assert any("another broker" in sentence for sentence in engine.troubles)
        with pytest.raises(PartitionUnavailableError, match="another broker"):
            log.append(numbered(1, 1))
