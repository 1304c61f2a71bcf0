"""The consistency check itself finds what it should find; otherwise its silence would mean nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.support import Store, alter, check_files
from takhin.model import CommittedOffset, Header
from takhin.storage.sqlite.times import BLOCK_RECORDS
from takhin.testing.contract import NOW, batch, name_of, numbered, spec, timed, under

DAMAGES = {
    "DELETE FROM records WHERE offset = 3": "do not lie densely",
    "DELETE FROM records WHERE offset = 2": "do not lie densely",
    "DELETE FROM records WHERE offset > 7": "do not lie densely",
    "DELETE FROM records": "do not lie densely",
    "UPDATE log SET end_offset = 9": "do not lie densely",
    "UPDATE log SET start_offset = 1": "do not lie densely",
    "UPDATE log SET start_offset = 9999": "range is impossible",
    "UPDATE log SET partition = 1": "of another partition",
    "UPDATE log SET topic = 'Orders'": "of another partition",
    "DELETE FROM log": "not one log row",
    "UPDATE headers SET offset = 1": "header has no record",
    "UPDATE headers SET position = 7 WHERE position = 1": "positions are not dense",
    "UPDATE committed_offsets SET offset = 9999": "committed offset",
    "UPDATE committed_offsets SET offset = -1": "committed offset",
    "UPDATE producer_batches SET sequence = 4 WHERE slot = 1": "not in sequence",
    "UPDATE producer_batches SET offset = 9999 WHERE slot = 1": "outside the log",
    "UPDATE producer_batches SET offset = 0 WHERE slot = 1": "not in sequence",
    "UPDATE producer_batches SET slot = 5 WHERE slot = 1": "not in sequence",
    "UPDATE producer_batches SET producer_id = x'00'": "not in sequence",
    "INSERT INTO time_blocks VALUES (4, 399, 0)": "miss a record",
    "UPDATE time_blocks SET highest = 5": "miss a record",
    "INSERT INTO time_blocks VALUES (1 << 40, 1 << 40, 0)": "outside the log",
    "INSERT INTO time_index VALUES (1, 0)": "not empty",
    "INSERT INTO zero_tails VALUES (5, -1, 0)": "a row of zero_tails",
    "UPDATE records SET value = zeroblob(14312) WHERE offset = 5": "a row of zero_tails",
}


async def make(data_dir: Path) -> None:
    """Make a data folder with a bit of everything, which is closed, checked and sound."""
    store = Store(data_dir)
    await store.open()
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(under(timed(100, 200, 300), b"p"))
    one = batch(b"v", headers={0: [Header("a", b"")] * 3}, timestamps=[400])
    await log.append(under(one, b"p", 3))
    await log.append(numbered(BLOCK_RECORDS - 4))
    await log.append(numbered(1))  # so that the time index has a row
    await store.engine.offsets.commit("billing", {name_of(log): CommittedOffset(10, "", NOW)})
    await log.trim(2)
    await store.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound data folder that all tests here copy, because making one takes a while."""
    data_dir = tmp_path_factory.mktemp("sound") / "data"
    asyncio.run(make(data_dir))
    return data_dir


@pytest.fixture
def files(sound: Path, tmp_path: Path) -> Path:
    """A copy of the sound data folder for one test to damage."""
    return Path(shutil.copytree(sound, tmp_path / "data"))


def found_in(data_dir: Path) -> str:
    """The faults that the check prints, of which there must be some."""
    with pytest.raises(AssertionError) as found:
        check_files(data_dir)
    return str(found.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_found(files: Path, damage: str):
    """One wrong row is found and named."""
    alter(files / "topics/orders/0.db", damage)
    assert DAMAGES[damage] in found_in(files)


def test_a_damaged_page_is_found(files: Path):
    """Overwritten bytes inside the file are found."""
    path = files / "topics/orders/0.db"
    content = bytearray(path.read_bytes())
    page = 16_384
    content[3 * page : 3 * page + 64] = b"\xff" * 64  # the root of a table
    path.write_bytes(content)
    assert found_in(files)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "0.db-wal").write_bytes(b""),
        lambda folder: (folder / "0.db").rename(folder / "1.db"),
        lambda folder: (folder / "0.db").unlink(),
        lambda folder: (folder / "notes.txt").write_text("mine"),
    ],
    ids=["wal", "renamed", "missing", "foreign"],
)
def test_a_wrong_folder_is_found(files: Path, change: Callable[[Path], object]):
    """Files that a clean close does not leave, and missing partitions, are found."""
    change(files / "topics/orders")
    assert "instead of partition files alone" in found_in(files)
