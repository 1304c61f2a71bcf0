"""With `strict`, files that do not belong in a data folder are refused at start, and left unchanged."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from takhin.schema import APPLICATION_ID, VERSION

from storage.support import alter
from takhin.clock import system_clock
from takhin.disk.connection import check_library
from takhin.errors import StartupError
from takhin.model import TopicConfig, TopicSpec
from takhin.settings import StorageSettings
from takhin.storage.sqlite.engine import SqliteEngine


def engine(data):
    return SqliteEngine(data, StorageSettings(strict=True), clock=system_clock)


@pytest.fixture
async def data(tmp_path):
    """A closed data folder with the topic `orders` of two partitions."""
    made = engine(tmp_path / "data")
    await made.open()
    await made.create_topic(TopicSpec("orders", 2, TopicConfig(1000)))
    await made.close()
    return tmp_path / "data"


def digests(data):
    """The digest of every file in the closed folder."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in data.glob("topics/*/*")}


async def refused(data, match):
    before = digests(data)
    with pytest.raises(StartupError, match=match) as raised:
        await engine(data).open()
    assert digests(data) == before
    assert "\n" not in str(raised.value)


async def test_newer_schema(data):
    """A file of a later Takhin is refused and unchanged."""
    alter(data / "topics/orders/1.db", f"PRAGMA user_version = {VERSION + 1}")
    await refused(data, rf"1\.db has schema version {VERSION + 1}")


async def test_foreign_database(data):
    """Another application's SQLite file is recognised by its application_id."""
    path = data / "topics/orders/1.db"
    path.unlink()
    alter(path, "CREATE TABLE t (x)")
    await refused(data, r"1\.db is not a Takhin partition: its application_id is 0x0")


@pytest.mark.parametrize("content", [b"", b"no database " * 1000])
async def test_no_database_at_all(data, content):
    """A file that is empty or no database is refused by name."""
    (data / "topics/orders/0.db").write_bytes(content)
    await refused(data, r"0\.db")


async def test_missing_partition(data):
    """A topic with a missing partition is not served as a smaller topic."""
    (data / "topics/orders/1.db").unlink()
    await refused(data, r"1\.db is missing: topic 'orders' has 2 partitions")


async def test_missing_first_partition(data):
    """Without partition 0, nothing describes the topic."""
    (data / "topics/orders/0.db").unlink()
    await refused(data, r"no partition 0")


async def test_copied_folder(data):
    """A copy of a topic's folder under another name is recognised by the content of its files."""
    shutil.copytree(data / "topics/orders", data / "topics/copy")
    await refused(data, r"0\.db is misplaced: it holds partition 0 of topic 'orders'")


async def test_swapped_partitions(data):
    """Swapped partition files are recognised, too."""
    folder = data / "topics/orders"
    (folder / "1.db").rename(folder / "x.db")
    shutil.copyfile(folder / "0.db", folder / "1.db")
    await refused(data, r"1\.db is misplaced")


async def test_records_beyond_the_end(data):
    """A log that ends before its last record contradicts itself."""
    alter(data / "topics/orders/0.db", "INSERT INTO records VALUES (0, 1, NULL, NULL)")
    await refused(data, r"0\.db contradicts itself: it has a record 0, but the log ends at 0")


async def test_second_engine_on_the_folder(data):
    """The folder is locked, and the error names the holder's pid."""
    first = engine(data)
    await first.open()
    with pytest.raises(StartupError, match=rf"in use by another broker \(pid {os.getpid()}\)"):
        await engine(data).open()
    await first.close()


@pytest.mark.parametrize("version", ["3.51.2", "3.50.6", "3.44.5", "3.45.1", "3.7.0"])
def test_affected_library(version):
    """An SQLite with the WAL-reset bug is refused."""
    with pytest.raises(StartupError, match=version):
        check_library(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.50.7", "3.44.6", "3.54.1", "4.0.0", ""])
def test_sound_library(version):
    """Fixed versions of SQLite, and the one we run on, are accepted."""
    check_library(version)


def test_version_is_the_number_of_migrations(tmp_path):
    """user_version counts migrations, so that a file says how far it has come."""
    path = tmp_path / "new.db"
    subprocess.run([sys.executable, "-m", "takhin.schema", str(path)], check=True)
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "print(c.execute('SELECT count(*) FROM _sqlite_migrations').fetchone()[0], "
        "c.execute('PRAGMA user_version').fetchone()[0], c.execute('PRAGMA application_id').fetchone()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(VERSION), str(VERSION), str(APPLICATION_ID)]
    assert Path(path).exists()
