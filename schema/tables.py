"""The tables of version 1, and the column that version 2 has added. Every opening compares a file with them.

A released statement is never edited, but for its comments: add a migration or an upgrade.
"""

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
  -- Empty since version 6, which has time_blocks instead.
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

COMMITS = "commits INTEGER NOT NULL DEFAULT 0"
"""The column that version 2 adds to the table `log`."""
