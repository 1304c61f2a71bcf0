"""The migrations of a partition's file, oldest first. A released one is never edited: add a new one.

They create new files and bring files of version 1 up to date; upgrades.py does that for later versions.

Nothing in the schema needs an SQLite newer than 3.37 (STRICT tables), so that any shell can open a file.
"""

from typing import TYPE_CHECKING

import sqlite_utils
from sqlite_utils.migrations import Migrations
from takhin.schema import APPLICATION_ID, PAGE_BYTES
from takhin.schema.tables import COMMITS, TABLES
from takhin.schema.upgrades import UPGRADES
from takhin.schema.views import LAG, RECORDS_TEXT

if TYPE_CHECKING:
    from sqlite_utils.db import Database

migrations = Migrations("takhin")


@migrations()
def m0001_log_and_records(db: "Database") -> None:
    """Create records, headers, committed offsets, the log's identity, and views for people."""
    for statement in (*TABLES.split(";\n"), RECORDS_TEXT, LAG):
        if statement.strip():
            db.execute(statement)


@migrations()
def m0002_commits(db: "Database") -> None:
    """Add the number of the log's commits, which shows that a file has lost some of them."""
    db.execute(f"ALTER TABLE log ADD COLUMN {COMMITS}")


@migrations()
def m0003_producer_batches(db: "Database") -> None:
    """Add the last batches of each producer. upgrades.py does so for files of version 2."""
    _upgrade(db, 3)


@migrations()
def m0004_lost_offsets(db: "Database") -> None:
    """Add the offsets that were given up. upgrades.py does so for files of versions 2 and 3."""
    _upgrade(db, 4)


@migrations()
def m0005_zero_tails(db: "Database") -> None:
    """Add the ends of zeros. upgrades.py does so for files of versions 2 to 4."""
    _upgrade(db, 5)


@migrations()
def m0006_times_and_compaction(db: "Database") -> None:
    """Add the times of blocks, and what compaction removes. upgrades.py does so for versions 2 to 5."""
    _upgrade(db, 6)


@migrations()
def m0007_sources(db: "Database") -> None:
    """Add the offsets that were taken of sources. upgrades.py does so for files of versions 2 to 6."""
    _upgrade(db, 7)


def _upgrade(db: "Database", version: int) -> None:
    for statement in UPGRADES[version]:
        db.execute(statement)


def migrate(path: str) -> None:
    """Give the closed file at `path` the current tables and views; a missing file is created.

    Afterwards it is in WAL mode, with everything in the file itself. Its user_version is set later.
    """
    db = sqlite_utils.Database(path)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.enable_wal()
        migrations.apply(db)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.conn.commit()
    finally:
        db.close()
