"""The data folder when people have moved, linked or removed parts of it while the engine runs, or before."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blackbox.clients import eventually
from storage.support import sqlite_engine
from takhin.copies.recover import recover
from takhin.disk.folder import DataFolder, is_locked
from takhin.disk.layout import Layout
from takhin.errors import CopyError, PartitionUnavailableError, StartupError
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


@contextmanager
def recovering(data: Path) -> Iterator[None]:
    """Within the block `takhin recover` is at work on orders/0, whether a broker has answered it or not."""
    with Layout(data).recover.open("w") as asked:
        fcntl.flock(asked, fcntl.LOCK_EX)
        asked.write("a run\norders/0\n")
        asked.flush()
        yield


async def test_a_failed_delete_while_recover_is_at_work(tmp_path: Path):
    """A topic that cannot be deleted is opened again without the partition that recover is replacing."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    engine = sqlite_engine(data)
    await engine.open()
    await engine.create_topic(spec("orders", 2))
    await engine.close()
    (data / "topics/orders").rename(elsewhere)
    (data / "topics/orders").symlink_to(elsewhere)
    await engine.open()
    with recovering(data):
        await asyncio.to_thread(eventually, Layout(data).released.exists)
        with pytest.raises(PartitionUnavailableError, match="is a link to another folder"):
            await engine.delete_topic("orders")
        with pytest.raises(PartitionUnavailableError, match="`takhin recover` is at work on it"):
            engine.topics["orders"].partitions[0].append(numbered(1))
    await engine.close()


def test_what_recover_makes_is_not_swept(tmp_path: Path):
    """Who locks the folder while recover is at work, its broker having died, leaves its files alone."""
    data, layout = tmp_path / "data", Layout(tmp_path / "data")
    DataFolder(data).close()
    (work := layout.tmp / "work").mkdir()
    layout.template.touch()
    with recovering(data):
        DataFolder(data).close()
        assert work.is_dir()
        assert not layout.template.exists()  # it may be an older Takhin's
        with pytest.raises(CopyError, match="another `takhin recover` is at work"):
            recover(data)
        assert work.is_dir()
    DataFolder(data).close()
    assert not work.exists()
