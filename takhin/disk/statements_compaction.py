"""The SQL of compaction: its rows in a partition's file, and its scratch tables. Otherwise as statements.py.

Whatever goes over many records is one statement: it runs in C, off the event loop or for a short time on it.
"""

from __future__ import annotations

from takhin.disk import statements as sql

# In the partition's file, by the writing connection

GET_GAPS = "SELECT compacted_below, records_below FROM compactions"
GET_COMPACTION = (
    "SELECT compacted_below, records_below, tombstones_kept, pass_end_offset, read_to, tombstones_below, "
    "began_at, next_offset FROM compactions"
)
BEGIN_RUN = (
    "UPDATE compactions SET compacted_below = ?, records_below = ?, pass_end_offset = ?, read_to = ?, "
    "tombstones_below = ?, began_at = ?, next_offset = ?"
)
STEP_RUN = "UPDATE compactions SET records_below = records_below - ?, next_offset = ?"
END_RUN = (
    "UPDATE compactions SET tombstones_kept = ?, pass_end_offset = NULL, read_to = NULL, "
    "tombstones_below = NULL, began_at = NULL, next_offset = NULL"
)
TIMESTAMP_FROM = "SELECT timestamp FROM records WHERE offset >= ? AND offset < ? ORDER BY offset LIMIT 1"
GET_SEEN = "SELECT end_offset, began_at FROM compaction_history ORDER BY end_offset"
DELETE_SEEN = "DELETE FROM compaction_history"
PUT_SEEN = "INSERT INTO compaction_history (end_offset, began_at) VALUES (?,?)"
PUT_GAPS = "UPDATE compactions SET compacted_below = ?, records_below = ?, tombstones_kept = ?"

NOT_KEPT = "offset >= ?1 AND offset < ?2 AND offset NOT IN (SELECT value FROM json_each(?3))"
REMOVE_RECORDS = f"DELETE FROM records WHERE {NOT_KEPT}"
REMOVE_WITH_THEM = (f"DELETE FROM headers WHERE {NOT_KEPT}", f"DELETE FROM zero_tails WHERE {NOT_KEPT}")
"""Parameters: two offsets, and the offsets between them that stay, as a JSON array."""

# In a scratch database of the pass, with the partition's file attached

ATTACH = "ATTACH ? AS log"
DETACH = "DETACH log"
SCRATCH = (
    (
        "CREATE TABLE latest (key BLOB PRIMARY KEY, offset INTEGER NOT NULL, tombstone INTEGER NOT NULL) "
        "WITHOUT ROWID"
    ),
    "CREATE TABLE kept (offset INTEGER PRIMARY KEY)",
)
BEYOND_ROWS = (
    "SELECT offset + 1 FROM (SELECT offset FROM log.records WHERE offset >= ? AND offset < ? "
    "ORDER BY offset LIMIT ?) ORDER BY offset DESC LIMIT 1"
)
NOTE_KEYS = (
    "INSERT INTO latest SELECT key, offset, value IS NULL FROM log.records "
    "WHERE offset >= ? AND offset < ? AND key IS NOT NULL "
    "ON CONFLICT (key) DO UPDATE SET offset = excluded.offset, tombstone = excluded.tombstone"
)
LONG_KEYS = f"SELECT offset FROM log.records WHERE offset >= ? AND offset < ? AND {sql.LONG_KEY}"
NOTE_KEPT = (
    "INSERT OR IGNORE INTO kept SELECT offset FROM latest "
    "WHERE offset < :end AND NOT (tombstone AND offset < :tombstones_below) ORDER BY offset"
)
COUNT_TOMBSTONES = (
    "SELECT count(*) FROM latest WHERE tombstone AND offset >= :tombstones_below AND offset < :end"
)
STEP = (
    "SELECT max(offset) + 1, count(*), "
    "sum(coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0)) FROM ("
    "SELECT offset, key, value FROM log.records WHERE offset >= ? AND offset < ? ORDER BY offset LIMIT ?)"
)
COUNT_HEADERS = "SELECT count(*) FROM log.headers WHERE offset >= ? AND offset < ?"
BEYOND_WEIGHT = (
    "SELECT max(offset) + 1, count(*) FROM (SELECT offset, row_number() OVER own AS number, "
    "sum(512 + coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0) + 512 * "
    "(SELECT count(*) FROM log.headers WHERE headers.offset = own_rows.offset)) OVER own AS weight "
    "FROM (SELECT offset, key, value FROM log.records WHERE offset >= ? AND offset < ? ORDER BY offset "
    "LIMIT ?) AS own_rows WINDOW own AS (ORDER BY offset)) WHERE weight <= ? OR number = 1"
)
"""(where a step ends that begins at an offset, its records). A row and a header weigh as 512 bytes do."""
KEPT_BETWEEN = "SELECT json_group_array(offset), count(*) FROM kept WHERE offset >= ? AND offset < ?"
