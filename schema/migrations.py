"""The migrations of a partition's file, oldest first. A released one is never edited: add a new one.

They create new files and bring files of version 1 up to date; upgrades.py does that for later versions.

Nothing in the schema needs an SQLite newer than 3.37 (STRICT tables), so that any shell can open a file.
"""

from typing import TYPE_CHECKING

import sqlite_utils
from sqlite_utils.migrations import Migrations
from takhin.schema import APPLICATION_ID, PAGE_BYTES
from takhin.schema.upgrades import UPGRADES
from takhin.schema.views import LAG, RECORDS_TEXT

if TYPE_CHECKING:
    from sqlite_utils.db import Database

migrations = Migrations("takhin")

TABLES = """
CREATE TABLE log (
  -- One row: whose log this is, and its range [start_offset, end_offset).
  id INTEGER PRIMARY KEY CHECK (id = 0),
  topic TEXT NOT NULL,
  partition INTEGER NOT NULL,
  topic_id TEXT NOT NULL,
  incarnation_id TEXT NOT NULL,       -- changes when an older copy of the log is put back
  start_offset INTEGER NOT NULL,
  end_offset INTEGER NOT NULL,        -- outlives the last record, so that no offset is given twice
  created_at INTEGER NOT NULL         -- ms since 1970
) STRICT;

CREATE TABLE topic (
  -- One row in partition 0's file, none in the others: what is true of the topic as a whole.
  id INTEGER PRIMARY KEY CHECK (id = 0),
  num_partitions INTEGER NOT NULL
) STRICT;

CREATE TABLE topic_configs (
  -- In partition 0's file.
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE records (
  offset INTEGER PRIMARY KEY,
  timestamp INTEGER NOT NULL,         -- ms since 1970
  key BLOB,                           -- NULL and empty differ
  value BLOB                          -- NULL and empty differ
) STRICT;

CREATE TABLE headers (
  offset INTEGER NOT NULL,
  position INTEGER NOT NULL,          -- order within the record, from 0; keys may repeat
  key TEXT NOT NULL,
  value BLOB NOT NULL,
  PRIMARY KEY (offset, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE time_index (
  -- Sparse: a row says that no record below its offset is stamped later than its timestamp.
  timestamp INTEGER PRIMARY KEY,      -- ms since 1970
  offset INTEGER NOT NULL
) STRICT;

CREATE TABLE committed_offsets (
  group_id TEXT PRIMARY KEY,
  offset INTEGER NOT NULL,            -- the next one to read
  metadata TEXT NOT NULL,
  committed_at INTEGER NOT NULL       -- ms since 1970
) STRICT, WITHOUT ROWID;
"""


@migrations()
def m0001_log_and_records(db: "Database") -> None:
    """Create records, headers, committed offsets, the log's identity, and views for people."""
    for statement in (*TABLES.split(";\n"), RECORDS_TEXT, LAG):
        if statement.strip():
            db.execute(statement)


@migrations()
def m0002_commits(db: "Database") -> None:
    """Add the number of the log's commits, which shows that a file has lost some of them."""
    db.execute("ALTER TABLE log ADD COLUMN commits INTEGER NOT NULL DEFAULT 0")


@migrations()
def m0003_producer_batches(db: "Database") -> None:
    """Add the last batches of each producer. upgrades.py does so for files of version 2."""
    db.execute(UPGRADES[3])


@migrations()
def m0004_lost_offsets(db: "Database") -> None:
    """Add the offsets that were given up. upgrades.py does so for files of versions 2 and 3."""
    db.execute(UPGRADES[4])


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
