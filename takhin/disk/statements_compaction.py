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
    "UPDATE compactions SET tombstones_kept = ?, pass_end_offset = NULL, tombstones_below = NULL, "
    "began_at = NULL, next_offset = NULL"
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

EMPTY_BLOCKS = (
    "DELETE FROM time_blocks WHERE beyond IN (SELECT value ->> 0 FROM json_each(?) WHERE value ->> 1 IS NULL)"
)
LOWER_BLOCKS = (
    "UPDATE time_blocks SET highest = changed.value ->> 1 FROM json_each(?) AS changed "
    "WHERE beyond = changed.value ->> 0 AND changed.value ->> 1 IS NOT NULL"
)
"""Parameter of both: what CHANGED_BLOCKS has found."""

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
KEYS_BELOW = (
    "SELECT min(offset), count(*), coalesce(sum(key_bytes), 0) + coalesce(sum(min(value_bytes, 16384)), 0) "
    "FROM (SELECT offset, octet_length(key) AS key_bytes, octet_length(value) AS value_bytes "
    "FROM log.records WHERE offset >= ? AND offset < ? ORDER BY offset DESC LIMIT ?)"
)
"""With the bytes that are read for the keys: of a value, those on the page of its record at most."""
NOTE_KEYS = (
    "INSERT OR IGNORE INTO latest SELECT key, offset, value IS NULL FROM log.records "
    "WHERE offset >= ? AND offset < ? AND key IS NOT NULL ORDER BY offset DESC"
)
"""Records are noted from the last one down, so the first one of a key that is met is its last one."""
READ_KEYS = "SELECT max(key) FROM log.records WHERE offset >= ? AND offset < ?"
"""Reads what NOTE_KEYS reads."""
LONG_KEYS = f"SELECT offset FROM log.records WHERE offset >= ? AND offset < ? AND {sql.LONG_KEY}"

_FEW_KEYS = "FROM (SELECT * FROM latest WHERE key >= :key ORDER BY key LIMIT :limit) WHERE offset < :end AND "
KEYS_FROM = (
    "SELECT count(*), coalesce(sum(octet_length(key)), 0) FROM "
    "(SELECT key FROM latest WHERE key >= ? ORDER BY key LIMIT ?)"
)
NEXT_KEY = "SELECT key FROM latest WHERE key >= ? ORDER BY key LIMIT 1 OFFSET ?"
NOTE_KEPT = (
    f"INSERT INTO kept SELECT offset {_FEW_KEYS} NOT (tombstone AND offset < :tombstones_below) "
    "ORDER BY offset"
)
COUNT_TOMBSTONES = f"SELECT count(*), min(offset) {_FEW_KEYS} tombstone AND offset >= :tombstones_below"

STEP = (
    "SELECT max(offset), count(*), coalesce(sum(key_bytes), 0) + coalesce(sum(value_bytes), 0) "
    "FROM (SELECT offset, octet_length(key) AS key_bytes, octet_length(value) AS value_bytes "
    "FROM log.records WHERE offset >= ? AND offset < ? ORDER BY offset LIMIT ?)"
)
COUNT_HEADERS = "SELECT count(*) FROM log.headers WHERE offset >= ? AND offset < ?"
KEPT_BETWEEN = "SELECT json_group_array(offset), count(*) FROM kept WHERE offset >= ? AND offset < ?"
CHANGED_BLOCKS = (
    "SELECT json_group_array(json_array(beyond, left)) FROM (SELECT beyond, highest, ("
    "SELECT max(timestamp) FROM kept CROSS JOIN log.records ON records.offset = kept.offset "
    "WHERE kept.offset < blocks.beyond AND kept.offset >= coalesce(("
    "SELECT max(beyond) FROM log.time_blocks AS before WHERE before.beyond < blocks.beyond), 0)"
    ") AS left FROM log.time_blocks AS blocks WHERE beyond > ? AND beyond <= ?) WHERE left IS NOT highest"
)
"""Of the blocks that end behind the first offset, up to the second one: see key_map.RemovalStep."""
