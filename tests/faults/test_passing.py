"""Files that cannot be opened for a while, for a reason that passes: they are tried again until it does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw
import pytest

import children
from blackbox.clients import eventually
from faults.failing_disk import Disk, Plan
from storage.support import check_files, freeze, sqlite_engine
from takhin.disk.layout import wal_of
from takhin.errors import PartitionUnavailableError
from takhin.testing.contract import numbered, read_all, spec

SETTINGS = {"ballast_bytes": 0, "free_bytes_low": 0, "recover_wait_ms": 10}


@pytest.fixture
async def killed(tmp_path: Path, disk: Disk) -> Path:
    """A killed broker's folder with a topic of two partitions, each with a write-ahead log."""
    engine = sqlite_engine(tmp_path / "data", **SETTINGS)
    await engine.open()
    for log in (await engine.create_topic(spec("t", 2))).partitions:
        await log.append(numbered(5))
    files = await freeze(engine)
    await children.run("cp", "-r", tmp_path / "data", tmp_path / "killed")
    files.held = False
    await engine.close()
    return tmp_path / "killed"


async def test_a_start(killed: Path, disk: Disk) -> None:
    """A file that could not be opened at the start is served as soon as it can, without being touched."""
    path = killed / "topics/t/1.db"
    disk.plan = Plan("open", path, 1, for_good=True)
    engine = sqlite_engine(killed, **SETTINGS)
    await engine.open()
    with pytest.raises(PartitionUnavailableError, match="cannot be opened as a Takhin partition"):
        engine.topics["t"].partitions[1].check_available()
    disk.plan = None
    await asyncio.to_thread(eventually, lambda: not engine.troubles)
    assert len(await read_all(engine.topics["t"].partitions[1])) == 5
    await engine.close()
    check_files(killed)


@pytest.mark.parametrize("code", [apsw.SQLITE_CANTOPEN, apsw.SQLITE_BUSY, apsw.SQLITE_IOERR_READ])
async def test_a_left_wal(killed: Path, disk: Disk, code: int) -> None:
    """A file that was closed with a WAL is opened for it as soon as it can be, not tried once only."""
    engine = sqlite_engine(killed, **SETTINGS, open_partitions_max=1)
    await engine.open()
    path = killed / "topics/t/1.db"
    assert wal_of(path).exists()
    disk.plan = plan = Plan("open", path, 1, for_good=True, code=code)
    await asyncio.to_thread(eventually, lambda: plan.failures >= 2)
    disk.plan = None
    await asyncio.to_thread(eventually, lambda: opened(path))
    assert not engine.troubles
    await engine.close()
    check_files(killed)


def opened(path: Path) -> bool:
    """Whether this process has the file open."""
    return path in {opened.resolve() for opened in Path("/proc/self/fd").iterdir()}
