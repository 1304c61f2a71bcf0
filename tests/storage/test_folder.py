"""The data folder when people have moved, linked or removed parts of it while the engine runs, or before."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from storage.support import sqlite_engine
from takhin.disk.folder import is_locked
from takhin.errors import PartitionUnavailableError, StartupError
from takhin.testing.contract import changed, numbered, read_all, spec


async def test_a_removed_lock_lets_nobody_in(tmp_path: Path):
    """Without LOCK, a second engine is refused all the same, and makes no LOCK that a third would believe."""
    data = tmp_path / "data"
    engine = sqlite_engine(data)
    await engine.open()
    (data / "LOCK").unlink()
    for _ in range(2):
        with pytest.raises(StartupError, match=r"in use by another broker \(pid unknown\)"):
            await sqlite_engine(data).open()
        assert is_locked(data)
    await engine.close()
    assert not is_locked(data)
    await engine_opened_and_closed(data)


async def engine_opened_and_closed(data: Path) -> None:
    engine = sqlite_engine(data)
    await engine.open()
    await engine.close()


async def test_a_removed_tmp_is_made_again(tmp_path: Path):
    """Topics are created, grow and are deleted although somebody has removed DATA/tmp."""
    engine = sqlite_engine(tmp_path / "data")
    await engine.open()
    for change in (
        lambda: engine.create_topic(spec("orders")),
        lambda: changed(engine, spec("orders", 2)),
        lambda: engine.delete_topic("orders"),
    ):
        shutil.rmtree(tmp_path / "data/tmp")
        await change()
    await engine.close()


async def test_a_linked_topic_is_not_deleted(tmp_path: Path):
    """A topic whose folder is a link is served; deleting it is refused, and nothing of it is lost."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    engine = sqlite_engine(data)
    await engine.open()
    await engine.create_topic(spec("orders"))
    await engine.close()
    (data / "topics/orders").rename(elsewhere)
    (data / "topics/orders").symlink_to(elsewhere)
    await engine.open()
    await engine.topics["orders"].partitions[0].append(numbered(3))
    with pytest.raises(PartitionUnavailableError, match="is a link to another folder"):
        await engine.delete_topic("orders")
    assert len(await read_all(engine.topics["orders"].partitions[0])) == 3
    await engine.close()
    assert [path.name for path in elsewhere.iterdir()] == ["0.db"]


async def test_a_folder_that_cannot_be_renamed(tmp_path: Path):
    """Where a rename is refused (EXDEV, as by an overlay), the error says why, and the topic stays."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        data = tmp_path / "data"
        engine = sqlite_engine(data)
        await engine.open()
        await engine.create_topic(spec("orders"))
        shutil.rmtree(data / "tmp")
        (data / "tmp").symlink_to(other)
        with pytest.raises(PartitionUnavailableError, match=r"different file systems, or .* of an overlay"):
            await engine.delete_topic("orders")
        with pytest.raises(PartitionUnavailableError, match="Invalid cross-device link"):
            await engine.create_topic(spec("payments"))
        await engine.topics["orders"].partitions[0].append(numbered(3))
        await engine.close()
