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

UPGRADES = {3: PRODUCER_BATCHES, 4: LOST_OFFSETS}
"""Statements by the version that the file has afterwards."""
