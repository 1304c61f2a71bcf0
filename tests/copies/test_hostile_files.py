"""Files made to do harm are refused by name, by the broker and by every command; nothing waits for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from storage.support import alter, refused, sqlite_engine
from takhin.copies.backup import backup
from takhin.copies.recover import recover
from takhin.copies.restore import restore
from takhin.copies.verify import verify
from takhin.disk.layout import shm_of, wal_bytes
from takhin.errors import CopyError, QueryError, StartupError
from takhin.query.topic import TopicFiles

pytestmark = pytest.mark.timeout(60)

ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r)"
VIEWS = {
    "records": f"{ENDLESS} SELECT n AS offset, n AS timestamp, x'' AS key, x'' AS value FROM r",
    "log": f"{ENDLESS} SELECT n AS id, 'orders' AS topic FROM r WHERE n < 0",
    "topic": f"{ENDLESS} SELECT n AS id, n AS num_partitions FROM r WHERE n < 0",
}
TABLES = [
    pytest.param(
        ["CREATE TRIGGER t AFTER UPDATE ON log BEGIN DELETE FROM records; END"], "trigger", id="trigger"
    ),
    *(
        pytest.param(
            [f"ALTER TABLE {name} RENAME TO {name}_", f"CREATE VIEW {name} AS {view}"],
            f"table {name}",
            id=f"view {name}",
        )
        for name, view in VIEWS.items()
    ),
    pytest.param(["CREATE INDEX i ON committed_offsets (hex(zeroblob(100000)))"], "index", id="expression"),
    pytest.param(["CREATE TABLE Takhin_Records (n)"], "table, 'takhin_records'", id="table function"),
    pytest.param(["CREATE VIEW takhin_read AS SELECT 1"], "view, 'takhin_read'", id="view for a function"),
    pytest.param(["ALTER TABLE records ADD COLUMN n INTEGER AS (offset)"], "table records", id="column"),
]
BY_PEOPLE = [
    "CREATE TABLE notes (text)",
    "CREATE INDEX by_time ON records (timestamp)",
    "CREATE VIEW newest AS SELECT * FROM records_text ORDER BY offset DESC",
    "ANALYZE",
]


async def refused_everywhere(data: Path, aside: Path, match: str) -> None:
    """Check that the broker and each command refuse the partition, and say why."""
    await refused(data, match)
    report = verify(data)
    assert any(match in fault for found in report.partitions for fault in found.faults), report
    with pytest.raises(CopyError):
        backup(data, aside / "backup")
    with pytest.raises(CopyError, match=match):
        restore(data, aside / "restored")


HOST = """
import sys, apsw
from takhin.schema import checksums
checksums.load()
db = apsw.Connection(sys.argv[1])
db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
for statement in sys.argv[2:]:
    db.execute(statement)
"""


def alter_in_log(path: Path, *statements: str) -> None:
    """Change a closed file by what is in a write-ahead log beside it, as in a copy of a file in use."""
    subprocess.run([sys.executable, "-c", HOST, path, *statements], check=True)
    shm_of(path).unlink()


@pytest.mark.parametrize(("statements", "match"), TABLES)
async def test_other_tables_in_a_log(data, tmp_path, statements, match):
    """The same in a write-ahead log without an index, which is read through a VFS of our own."""
    path = data / "topics/orders/0.db"
    alter_in_log(path, *statements)
    assert wal_bytes(path)
    with pytest.raises(QueryError, match=match):
        TopicFiles(data, "orders")
    await refused_everywhere(data, tmp_path, match)
    recover(data)
    assert verify(data).ok


async def test_a_backup_has_all_others(data, tmp_path):
    """A topic whose tables are not ours is said to be missing from the backup, which has the others."""
    shutil.copytree(data / "topics/orders", data / "topics/zebra")
    alter(data / "topics/orders/0.db", "DROP TABLE headers")
    for number in (0, 1):
        alter(data / f"topics/zebra/{number}.db", "UPDATE log SET topic = 'zebra'")
    with pytest.raises(CopyError, match=r"incomplete: .*orders.*has no table headers. All other topics"):
        backup(data, tmp_path / "backup")
    assert (tmp_path / "backup/topics/zebra/1.db").exists()


@pytest.mark.parametrize(("statements", "match"), TABLES)
async def test_other_tables(data, tmp_path, statements, match):
    """Triggers, views in place of tables, computed columns and indexes are refused, and none of them runs."""
    alter(data / "topics/orders/0.db", *statements)
    await refused_everywhere(data, tmp_path, match)


async def test_what_people_add(data, tmp_path):
    """A table, a plain index or a view of somebody's own is no harm."""
    alter(data / "topics/orders/0.db", *BY_PEOPLE)
    engine = sqlite_engine(data)
    await engine.open()
    await engine.close()
    assert verify(data).ok
    backup(data, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "restored")


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["0.db", "0.db-wal", "0.db-shm"])
async def test_a_fifo_for_a_partition(data, tmp_path, name):
    """A FIFO in the place of a partition's file, or beside one, holds nobody up."""
    fifo(data / "topics/orders" / name)
    await refused(data, "not a plain file")
    assert not verify(data).ok
    with pytest.raises(CopyError):
        backup(data, tmp_path / "backup")
    with pytest.raises(CopyError):
        restore(data, tmp_path / "restored")
    with pytest.raises(QueryError):
        TopicFiles(data, "orders")


@pytest.mark.parametrize("name", ["LOCK", "witness"])
async def test_a_fifo_for_lock_or_witness(data, tmp_path, name):
    """A FIFO in the place of LOCK or of the witness refuses the start."""
    fifo(data / name)
    with pytest.raises(StartupError, match="not a plain file"):
        await sqlite_engine(data).open()
    if name == "witness":
        with pytest.raises(CopyError, match="not a plain file"):
            verify(data)


@pytest.mark.parametrize("name", ["witness", "backup.json"])
def test_an_enormous_file(data, tmp_path, name):
    """A sparse file of 8 GB is not read whole."""
    with (data / name).open("ab") as file:
        file.truncate(8 << 30)
    with pytest.raises(CopyError, match="more than"):
        verify(data)


def test_a_fifo_for_a_manifest(data, tmp_path):
    """A FIFO as backup.json is refused by name."""
    fifo(data / "backup.json")
    with pytest.raises(CopyError, match="not a plain file"):
        verify(data)
    with pytest.raises(CopyError, match="not a plain file"):
        restore(data, tmp_path / "restored")


async def test_a_file_with_a_hole(data, tmp_path):
    """A partition that is longer than its header says is refused, and not copied."""
    os.truncate(data / "topics/orders/0.db", 2 << 40)
    await refused_everywhere(data, tmp_path, "is longer than it should be")
    with pytest.raises(CopyError, match="cannot be kept aside"):
        recover(data)
    assert not list((data / "aside").glob("**/*.db"))
