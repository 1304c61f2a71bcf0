"""All SQL of the broker, under names. Knows the schema and nothing else."""

from __future__ import annotations

from functools import cache

BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

ROWS_PER_STATEMENT_MAX = 64
"""Rows of one INSERT. A longer one leaves the processor's cache while it runs: 1,000 rows take 0.33 ms in
statements of 64 rows, 0.43 ms in one, 0.68 ms by executemany."""


@cache
def insert_records(rows: int) -> str:
    """Parameters: the first offset, then timestamp, key, value of each row. The writer asks for powers of
    two only, so that all of them stay prepared."""
    values = ",".join(f"(?1+{row},?,?,?)" for row in range(rows))
    return f"INSERT INTO records (offset, timestamp, key, value) VALUES {values}"


INSERT_HEADER = "INSERT INTO headers (offset, position, key, value) VALUES (?,?,?,?)"
PUT_TIME = "INSERT OR REPLACE INTO time_index (timestamp, offset) VALUES (?,?)"
SET_END = "UPDATE log SET end_offset = ?, commits = ?"
COUNT_COMMIT = "UPDATE log SET commits = commits + 1 RETURNING commits, end_offset"
SET_START = "UPDATE log SET start_offset = max(start_offset, ?)"

READ = (
    "SELECT offset, timestamp, key, value FROM records "
    "WHERE offset >= ? AND offset < ? ORDER BY offset LIMIT ?"
)
READ_HEADERS = "SELECT offset, key, value FROM headers WHERE offset BETWEEN ? AND ? ORDER BY offset, position"

LAST_BEFORE_TIME = "SELECT offset FROM time_index WHERE timestamp < ? ORDER BY timestamp DESC LIMIT 1"
FIRST_AT_TIME = (
    "SELECT offset FROM records WHERE offset >= ? AND offset < ? AND timestamp >= ? ORDER BY offset LIMIT 1"
)
LAST_TIME = "SELECT timestamp, offset FROM time_index ORDER BY timestamp DESC LIMIT 1"
HIGHEST_TIME_FROM = "SELECT max(timestamp) FROM records WHERE offset >= ?"

TRIM = (
    "DELETE FROM records WHERE offset < ?",
    "DELETE FROM headers WHERE offset < ?",
    # The last row at or below the new start says where a search may begin: it stays.
    "DELETE FROM time_index WHERE timestamp < (SELECT max(timestamp) FROM time_index WHERE offset <= ?)",
)

FREE_PAGES = "PRAGMA freelist_count"
GIVE_PAGES_BACK = "PRAGMA incremental_vacuum({})"

PUT_COMMITTED = (
    "INSERT INTO committed_offsets (group_id, offset, metadata, committed_at) VALUES (?,?,?,?) "
    "ON CONFLICT (group_id) DO UPDATE SET offset = excluded.offset, metadata = excluded.metadata, "
    "committed_at = excluded.committed_at"
)
ALL_COMMITTED = "SELECT group_id, offset, metadata, committed_at FROM committed_offsets"
FORGET_GROUP = "DELETE FROM committed_offsets WHERE group_id = ?"

PRODUCER_BATCHES = (
    "SELECT sequence, record_count, offset, timestamp, slot FROM producer_batches WHERE producer_id = ?"
)
PUT_PRODUCER_BATCH = (
    "INSERT OR REPLACE INTO producer_batches "
    "(producer_id, sequence, record_count, offset, timestamp, slot) VALUES (?,?,?,?,?,?)"
)
COUNT_PRODUCERS = "SELECT count(DISTINCT producer_id) FROM producer_batches"
FORGET_PRODUCERS = (
    "DELETE FROM producer_batches WHERE producer_id IN "
    "(SELECT producer_id FROM producer_batches GROUP BY producer_id ORDER BY max(offset) LIMIT ?)"
)

GET_LOG = "SELECT topic, partition, topic_id, incarnation_id, start_offset FROM log WHERE id = 0"
GET_END = "SELECT commits, end_offset FROM log WHERE id = 0"
LAST_OFFSET = "SELECT max(offset) FROM records"
SET_INCARNATION = "UPDATE log SET incarnation_id = ?"
PUT_LOG = (
    "INSERT INTO log (id, topic, partition, topic_id, incarnation_id, start_offset, end_offset, created_at) "
    "VALUES (0,?,?,?,?,0,0,?)"
)
GET_NUM_PARTITIONS = "SELECT num_partitions FROM topic WHERE id = 0"
PUT_NUM_PARTITIONS = "INSERT INTO topic (id, num_partitions) VALUES (0,?)"
SET_NUM_PARTITIONS = "UPDATE topic SET num_partitions = ?"
GET_CONFIGS = "SELECT key, value FROM topic_configs"
DELETE_CONFIGS = "DELETE FROM topic_configs"
PUT_CONFIG = "INSERT INTO topic_configs (key, value) VALUES (?,?)"
