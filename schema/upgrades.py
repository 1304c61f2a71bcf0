"""The statements that bring a file with checksums from one version to the next.

sqlite-utils would write pages without checksums, and writing new checksums for all pages would hide damage.
So the broker runs these statements itself, on the connection that opens the file, after checking the log.
"""

PRODUCER_BATCHES = """
CREATE TABLE producer_batches (
  -- The last batches of each producer that numbers what it sends: a repeat of one is not stored again.
  producer_id BLOB NOT NULL,
  slot INTEGER NOT NULL,              -- 0 to 4, used in turn: the sixth batch takes the place of the first
  sequence INTEGER NOT NULL,          -- number of the first record among those of this producer, from 0
  record_count INTEGER NOT NULL,
  offset INTEGER NOT NULL,            -- of the first record; it may have been trimmed since
  timestamp INTEGER NOT NULL,         -- of the first record, ms since 1970
  PRIMARY KEY (producer_id, slot)
) STRICT, WITHOUT ROWID
"""

LOST_OFFSETS = """
CREATE TABLE lost_offsets (
  -- Ranges [first, beyond) that takhin recover has given up: they have no records, and readers skip them.
  first INTEGER PRIMARY KEY,
  beyond INTEGER NOT NULL
) STRICT
"""

ZERO_TAILS = """
CREATE TABLE zero_tails (
  -- Keys with values that end in so many zeros that the loss of a page would not be noticed.
  -- A row with offset -1: nothing is known of the offsets below its length, which are older than this table.
  offset INTEGER NOT NULL,
  position INTEGER NOT NULL,          -- that of a header; -1: the record's own key and value
  length INTEGER NOT NULL,            -- bytes of key and value together without the zeros at their end
  PRIMARY KEY (offset, position)
) STRICT, WITHOUT ROWID
"""

TAILS_UNKNOWN = """
INSERT INTO zero_tails SELECT -1, 0, end_offset FROM log WHERE end_offset > start_offset
"""

TIME_BLOCKS = """
CREATE TABLE time_blocks (
  -- A row for some hundred records: those from the row before on, below the offset `beyond`.
  beyond INTEGER PRIMARY KEY,
  highest INTEGER NOT NULL,           -- none of them is stamped later, ms since 1970
  appended INTEGER NOT NULL           -- none was appended later, by the broker's clock; 2^63 - 1: unknown
) STRICT
"""

FILL_TIME_BLOCKS = """
INSERT INTO time_blocks SELECT offset, timestamp, 9223372036854775807 FROM time_index
WHERE offset > (SELECT start_offset FROM log)
"""

EMPTY_TIME_INDEX = "DELETE FROM time_index"

COMPACTIONS = """
CREATE TABLE compactions (
  -- One row: where compaction may have removed records, and the pass that is under way.
  id INTEGER PRIMARY KEY CHECK (id = 0),
  compacted_below INTEGER NOT NULL,   -- offsets below it may have no record
  records_below INTEGER NOT NULL,     -- as many of those from start_offset on have one
  tombstones_kept INTEGER NOT NULL,   -- by the last pass, for a later one
  pass_end_offset INTEGER,            -- the pass removes records below it; NULL: no pass is under way
  read_to INTEGER,                    -- where the records end that supersede others
  tombstones_below INTEGER,           -- tombstones below it are removed, too
  began_at INTEGER,                   -- ms since 1970
  next_offset INTEGER                 -- everything below it is done
) STRICT
"""

NEVER_COMPACTED = "INSERT INTO compactions VALUES (0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL)"

COMPACTION_HISTORY = """
CREATE TABLE compaction_history (
  -- The passes that were the first to see some tombstones: those below the end and not below an earlier one.
  end_offset INTEGER PRIMARY KEY,
  began_at INTEGER NOT NULL           -- ms since 1970
) STRICT
"""

SOURCES = """
CREATE TABLE sources (
  -- The highest offset of an input log that records were made of here, by a program that reads as a group.
  group_id TEXT NOT NULL,
  incarnation_id TEXT NOT NULL,       -- of the input log
  offset INTEGER NOT NULL,            -- no batch that was made of it, or of one below it, is stored again
  topic TEXT NOT NULL,                -- whose log it is
  partition INTEGER NOT NULL,
  PRIMARY KEY (group_id, incarnation_id)
) STRICT, WITHOUT ROWID
"""

DROP_LAG = "DROP VIEW IF EXISTS lag"

LAG_OF_WHAT_IS_THERE = """
CREATE VIEW lag AS
SELECT
  c.group_id AS group_id,
  c.offset AS committed_offset,
  log.end_offset AS end_offset,
  log.end_offset - max(c.offset, log.start_offset) AS lag,
  strftime('%Y-%m-%dT%H:%M:%fZ', c.committed_at / 1000.0, 'unixepoch') AS committed_at,
  c.metadata AS metadata
FROM committed_offsets AS c CROSS JOIN log
"""

UPGRADES = {
    3: (PRODUCER_BATCHES,),
    4: (LOST_OFFSETS,),
    5: (ZERO_TAILS, TAILS_UNKNOWN),
    6: (
        *(TIME_BLOCKS, FILL_TIME_BLOCKS, EMPTY_TIME_INDEX),
        *(COMPACTIONS, NEVER_COMPACTED, COMPACTION_HISTORY),
        *(DROP_LAG, LAG_OF_WHAT_IS_THERE),
    ),
    7: (SOURCES,),
}
"""Statements by the version that the file has afterwards."""
