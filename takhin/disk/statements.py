"""Every SQL statement of the package, under a name. Knows the tables of schema/ and nothing else.

In the order of those who run them: the engine, then all who ask what a file is, then copies, then queries.
Statements that depend on a table, on columns or on a number of rows are made by functions here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from takhin.disk import overflow
from takhin.schema import PAGE_BYTES

# Transactions

BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"
BEGIN_READ = "BEGIN"
"""A transaction that sees one state of the file, from its first statement on: see TOUCH."""
TOUCH = "SELECT count(*) FROM sqlite_schema"
"""Reads a page, and so takes in a write-ahead log and fixes the state that a read transaction sees."""


@cache
def verify_checksums(pages: int) -> str:
    """How many of so many pages have the checksum of all others in their last 8 bytes."""
    return f"SELECT {'+'.join(['verify_checksum(?)'] * pages)}"


# Records

ROWS_PER_STATEMENT_MAX = 64
"""Rows of one INSERT. A longer one leaves the processor's cache while it runs: 1,000 rows take 0.33 ms in
statements of 64 rows, 0.43 ms in one, 0.68 ms by executemany."""


@cache
def insert_records(rows: int) -> str:
    """Parameters: the first offset, then timestamp, key, value of each row.

    The writer asks for powers of two only, so that all of these statements stay prepared.
    """
    values = ",".join(f"(?1+{row},?,?,?)" for row in range(rows))
    return f"INSERT INTO records (offset, timestamp, key, value) VALUES {values}"


INSERT_PACKED = (
    "INSERT INTO records (offset, timestamp, key, value) "
    "SELECT offset, timestamp, key, value FROM takhin_records(?,?,?,?)"
)
"""Parameters: records as they came, the first one's offset, the clock (ms), whether all get its time."""
INSERT_PACKED_HEADERS = (
    "INSERT INTO headers (offset, position, key, value) "
    "SELECT offset, position, key, value FROM takhin_headers(?,?)"
)
READ_ENCODED = (
    "SELECT encoded, records, size_bytes, first_offset, next_offset FROM takhin_read("
    ":first, :below, :records_max, :bytes_max, :headers_max, :partition, :gaps_below, "
    f"{overflow.RECORD_LAST_BYTES_MIN}, {overflow.HEADER_LAST_BYTES_MIN})"
)
"""The next records as a response has them: native/read.c. No row: READ and READ_HEADERS are to be used."""

TABLE_FUNCTIONS = ("takhin_records", "takhin_headers", "takhin_read")
"""The library's. What has such a name in a file would stand before them."""


@cache
def insert_headers(rows: int) -> str:
    """Parameters: offset, position, key, value of each row; as many rows as of `insert_records`.

    A statement looks for its place once. For that SQLite reads the rows there whole, however large they are.
    """
    return f"INSERT INTO headers (offset, position, key, value) VALUES {','.join(['(?,?,?,?)'] * rows)}"


INSERT_HEADER = insert_headers(1)
PUT_BLOCK = "INSERT OR REPLACE INTO time_blocks (beyond, highest, appended) VALUES (?,?,?)"
SET_END = "UPDATE log SET end_offset = ?, commits = ?"
COUNT_COMMIT = "UPDATE log SET commits = commits + 1 RETURNING commits, end_offset"
SET_START = "UPDATE log SET start_offset = max(start_offset, ?)"

READ = (
    "SELECT offset, timestamp, key, value FROM records "
    "WHERE offset >= ? AND offset < ? ORDER BY offset LIMIT ?"
)
READ_HEADERS = "SELECT offset, key, value FROM headers WHERE offset BETWEEN ? AND ? ORDER BY offset, position"

PUT_ZERO_TAIL = "INSERT INTO zero_tails (offset, position, length) VALUES (?,?,?)"
GET_ZERO_TAIL = "SELECT length FROM zero_tails WHERE offset = ? AND position = ?"
TAILS_UNKNOWN_BELOW = "SELECT length FROM zero_tails WHERE offset = -1"
LONG_RECORD = (
    f"coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0) >= {overflow.RECORD_LAST_BYTES_MIN}"
)
LONG_HEADER = f"octet_length(key) + octet_length(value) >= {overflow.HEADER_LAST_BYTES_MIN}"
"""SQLite finds lengths at the beginning of a row, so these conditions read none of its overflow pages."""
LONG_CONTENT = (
    f"SELECT offset, -1, key, value FROM records WHERE {LONG_RECORD} UNION ALL "
    f"SELECT offset, position, CAST(key AS BLOB), value FROM headers WHERE {LONG_HEADER}"
)
LONG_CONTENT_AT = (
    f"SELECT offset, -1, key, value FROM records WHERE offset = ? AND {LONG_RECORD} UNION ALL "
    "SELECT offset, position, CAST(key AS BLOB), value FROM headers "
    f"WHERE offset = ? AND {LONG_HEADER}"
)

BLOCKS_AT_A_TIME = 10_000
BLOCK_FROM_TIME = (
    "WITH few AS NOT MATERIALIZED (SELECT * FROM time_blocks WHERE beyond > ?1 ORDER BY beyond "
    f"LIMIT {BLOCKS_AT_A_TIME}), first AS (SELECT (SELECT beyond FROM few "
    "WHERE highest >= ?2 LIMIT 1) AS beyond) "
    "SELECT beyond, iif(beyond IS NULL, (SELECT max(beyond) FROM few), NULL) FROM first"
)
"""Parameters: an offset and a time. Finds the end of the first block that reaches behind the offset and may
have a record at or after the time, and where the search has come."""
FIRST_FROM_TIME = (
    "SELECT max(beyond) FROM time_blocks WHERE beyond < coalesce("
    "(SELECT beyond FROM time_blocks WHERE highest >= ? ORDER BY beyond LIMIT 1), 9223372036854775807)"
)
"""An offset below which no record is stamped at or after a time; NULL: none is known."""
BLOCK = (
    "SELECT coalesce((SELECT max(beyond) FROM time_blocks WHERE beyond < ?1), 0), appended "
    "FROM time_blocks WHERE beyond = ?1"
)
"""Where a block begins, and when its last record was appended."""
FIRST_AT_TIME = (
    "SELECT offset, timestamp FROM records WHERE offset >= ? AND offset < ? AND timestamp BETWEEN ? AND ? "
    "ORDER BY offset LIMIT 1"
)
NTH_BLOCK = "SELECT beyond FROM time_blocks WHERE beyond > ? ORDER BY beyond LIMIT 1 OFFSET ?"
LOWER_APPENDED = (
    "UPDATE time_blocks SET appended = :now WHERE appended > :now AND beyond > :first AND beyond <= :last"
)
TIMESTAMP_FROM = "SELECT timestamp FROM records WHERE offset >= ? AND offset < ? ORDER BY offset LIMIT 1"
LAST_BLOCK = "SELECT max(beyond) FROM time_blocks"
LAST_TIMESTAMP = "SELECT timestamp FROM records ORDER BY offset DESC LIMIT 1"
FIRST_TIMESTAMP = "SELECT timestamp FROM records ORDER BY offset LIMIT 1"
FIRST_APPENDED = (
    "SELECT (SELECT appended FROM time_blocks WHERE beyond > records.offset ORDER BY beyond LIMIT 1) "
    "FROM records ORDER BY offset LIMIT 1"
)
HIGHEST_TIME_FROM = "SELECT max(timestamp) FROM records WHERE offset >= ?"

TRIM = (
    "DELETE FROM records WHERE offset < ?",
    # Must follow the first one: it counts what that has deleted.
    (
        "UPDATE compactions SET records_below = iif(?1 < compacted_below, records_below - changes(), 0) "
        "WHERE compacted_below > 0"
    ),
    "DELETE FROM headers WHERE offset < ?",
    # The row with a negative offset says something else: see schema/upgrades.py.
    "DELETE FROM zero_tails WHERE offset >= 0 AND offset < ?",
    "DELETE FROM time_blocks WHERE beyond <= ?",
)

OFFSET_FROM = "SELECT offset FROM records WHERE offset >= ? ORDER BY offset LIMIT 1"
NTH_OFFSET = "SELECT offset FROM records WHERE offset >= ? AND offset < ? ORDER BY offset LIMIT 1 OFFSET ?"
ROW_BYTES_MAX = 32
"""What a row takes besides its key and value."""


def _in_pages(content: str, local_bytes_max: int) -> str:
    """The space of a row whose content has a length. What does not fit beside others has pages of its own."""
    in_pages = f"({content} / {PAGE_BYTES} + 1) * {PAGE_BYTES}"
    return f"coalesce(sum(iif({content} > {local_bytes_max}, {in_pages}, {content} + {ROW_BYTES_MAX})), 0)"


_RECORD = "coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0)"
_HEADER = "octet_length(key) + octet_length(value)"
STORED = (
    f"SELECT (SELECT {_in_pages(f'({_RECORD})', overflow.RECORD_LOCAL_BYTES_MAX)} "
    "FROM records WHERE offset >= ?1 AND offset < ?2) + "
    f"(SELECT {_in_pages(f'({_HEADER})', overflow.HEADER_LOCAL_BYTES_MAX)} "
    "FROM headers WHERE offset >= ?1 AND offset < ?2), "
    "(SELECT count(*) FROM headers WHERE offset >= ?1 AND offset < ?2)"
)
"""(about the bytes that removing [offset, offset) frees, or less; its headers). Reads no overflow page: see
LONG_HEADER."""

LAST_OFFSET = "SELECT max(offset) FROM records"
GET_LOST = "SELECT first, beyond FROM lost_offsets ORDER BY first"

PAGES = "PRAGMA page_count"
FREE_PAGES = "PRAGMA freelist_count"
COMMITTED_PAGES = "SELECT pageno FROM dbstat WHERE name = 'committed_offsets' AND aggregate = TRUE"
"""The pages of a table (sqlite.org/dbstat.html). It reads all of them."""


def give_pages_back(pages: int) -> str:
    """Returns as many free pages to the file system; fetch its rows, each of which is one step."""
    return f"PRAGMA incremental_vacuum({pages})"


# Consumer groups and producers

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
OLDEST_LAST_BATCH = (
    "SELECT min(last) FROM (SELECT max(offset) AS last FROM producer_batches GROUP BY producer_id)"
)
FORGET_PRODUCERS = (
    "DELETE FROM producer_batches WHERE producer_id IN "
    "(SELECT producer_id FROM producer_batches GROUP BY producer_id ORDER BY max(offset) LIMIT ?)"
)

GET_SOURCE = "SELECT offset FROM sources WHERE group_id = ? AND incarnation_id = ?"
PUT_SOURCE = (
    "INSERT INTO sources (group_id, incarnation_id, offset, topic, partition) VALUES (?,?,?,?,?) "
    "ON CONFLICT (group_id, incarnation_id) DO UPDATE SET offset = excluded.offset"
)
COUNT_SOURCES = "SELECT count(*) FROM sources"
SOURCE_GROUPS = "SELECT DISTINCT group_id FROM sources"
SOURCE_LOGS = "SELECT DISTINCT incarnation_id FROM sources"
FORGET_SOURCES_OF_GROUP = "DELETE FROM sources WHERE group_id = ?"
FORGET_SOURCES_OF_TOPICS = (
    "DELETE FROM sources WHERE group_id = ? AND topic IN (SELECT value FROM json_each(?))"
)
HAS_SOURCES = "SELECT EXISTS (SELECT 1 FROM sources WHERE group_id = ?)"
FORGET_SOURCES_OF_LOGS = "DELETE FROM sources WHERE incarnation_id IN (SELECT value FROM json_each(?))"

# Whose log a file is, and what its topic is

GET_END = "SELECT commits, end_offset FROM log WHERE id = 0"
GET_LOG = "SELECT * FROM log WHERE id = 0"
"""With the columns that the file's version has: LOG_COLUMNS names them."""
SCHEMA = "SELECT type, lower(name), lower(tbl_name), sql FROM sqlite_schema LIMIT ?"
SCHEMA_ROWS_MAX = 200
"""More than any file needs: Takhin makes a dozen."""
TABLE_NAME = r"CREATE TABLE (\w+)"
PLAIN_INDEX = r"CREATE INDEX [^()]+\([^()]+\)"
"""What people's indexes may be: on columns, without expressions and conditions."""
LOG_COLUMNS = "SELECT name FROM pragma_table_info('log')"
SET_INCARNATION = "UPDATE log SET incarnation_id = ?"
RENEW_LOG = "UPDATE log SET incarnation_id = ?, commits = ?"
PUT_LOG = (
    "INSERT INTO log "
    "(id, topic, partition, topic_id, incarnation_id, start_offset, end_offset, commits, created_at) "
    "VALUES (0,?,?,?,?,?,?,?,?)"
)
GET_NUM_PARTITIONS = "SELECT num_partitions FROM topic WHERE id = 0"
PUT_NUM_PARTITIONS = "INSERT INTO topic (id, num_partitions) VALUES (0,?)"
SET_NUM_PARTITIONS = "UPDATE topic SET num_partitions = ?"
GET_CONFIGS = "SELECT key, value FROM topic_configs"
DELETE_CONFIGS = "DELETE FROM topic_configs"
PUT_CONFIG = "INSERT INTO topic_configs (key, value) VALUES (?,?)"
COUNT_CONFIGS = "SELECT count(*) FROM topic_configs"

# Is what a file holds whole? (copies/checking.py)

INTEGRITY = "PRAGMA integrity_check(3)"
"""Reads every page, and so compares every checksum; up to three complaints."""
FREE_LIST = "PRAGMA integrity_check(sqlite_schema)"
"""INTEGRITY leaves the list of free pages out if the schema has a view, by SQLite's hash of the names."""
STRUCTURE = "PRAGMA integrity_check(1)"
COUNT_RECORDS = "SELECT count(*) FROM records"
"""Offsets are unique, so a count and two bounds say whether they are dense; a count alone is fast."""
FIRST_OFFSET = "SELECT min(offset) FROM records"
COUNT_RECORDS_BELOW = "SELECT count(*) FROM records WHERE offset < ?"
COUNT_LOST = "SELECT coalesce(sum(max(0, min(beyond, :end) - max(first, :start))), 0) FROM lost_offsets"
STRAY_HEADER = (
    "SELECT offset FROM headers WHERE offset < :start UNION ALL "
    "SELECT offset FROM headers WHERE offset >= :end LIMIT 1"
)
BAD_COMMITTED = (
    "SELECT group_id, offset FROM committed_offsets WHERE offset NOT BETWEEN 0 AND :end ORDER BY group_id"
)
ZEROED_COMMITTED = "SELECT group_id, committed_at FROM committed_offsets WHERE committed_at = 0"
BAD_PRODUCER = (
    "SELECT lower(hex(producer_id)), offset + record_count FROM producer_batches "
    "WHERE offset < 0 OR record_count < 1 OR offset + record_count > :end ORDER BY offset DESC LIMIT 3"
)
BAD_SOURCE = "SELECT group_id, topic, partition, offset FROM sources WHERE offset < 0 ORDER BY group_id"

# A new file made of an old, damaged one (copies/salvage.py), and the target of a backup

OLD_RECORDS = (
    "SELECT offset, timestamp, key, value FROM records WHERE offset >= ?1 AND offset < ?2 ORDER BY offset "
    "LIMIT ?2 - ?1"
)
"""The limit is more than the number of rows, or as many: then SQLite does not look at the next one's page."""
OLD_HEADERS = (
    "SELECT offset, position, key, value FROM headers WHERE offset >= ? AND offset < ? "
    "ORDER BY offset, position"
)
ROOT_OF_RECORDS = "SELECT rootpage FROM sqlite_schema WHERE name = 'records' AND rootpage > 1"
"""Without what has no page, as a view in the table's place."""
MOVE_ROOT = "UPDATE sqlite_schema SET rootpage = ? WHERE name = ?"
PUT_RECORD = "INSERT INTO records (offset, timestamp, key, value) VALUES (?,?,?,?)"
PUT_LOST = "INSERT INTO lost_offsets (first, beyond) VALUES (?,?)"
INDEX_TIMES = (
    "INSERT INTO time_blocks (beyond, highest, appended) "
    "SELECT max(offset) + 1, max(timestamp), ?2 FROM records GROUP BY offset / ?1"
)
"""Fills an empty time_blocks. Parameters: the offsets of a block, and when its records were appended."""


def old_rows(table: str, columns: str, key: str, *, descending: bool) -> str:
    """All rows of a small table in the order of its key, from the one end or the other."""
    order = ", ".join(f"{name} DESC" if descending else name for name in key.split(", "))
    return f"SELECT {columns} FROM {table} ORDER BY {order}"


FIRST_PAGE = "CREATE TABLE first (page)"
"""Makes SQLite write the first page of a new file."""

# Queries over a topic (query/): what a column is in a partition's file, and statements made of columns

TIME_AS_TEXT = "strftime('%Y-%m-%dT%H:%M:%fZ', timestamp / 1000.0, 'unixepoch')"
HEADERS_AS_JSON = (
    "(SELECT json_group_array(json_array(key, hex(value))) FROM "
    "(SELECT key, value FROM headers WHERE headers.offset = records.offset ORDER BY position))"
)
LONG_KEY = f"(octet_length(key) > {overflow.KEY_LOCAL_BYTES_MAX} AND {LONG_RECORD})"
HAS_LONG_HEADER = f"EXISTS (SELECT 1 FROM headers WHERE headers.offset = records.offset AND {LONG_HEADER})"
LAG = "end_offset - max(offset, start_offset)"
COMMITTED_AND_LOG = "committed_offsets CROSS JOIN log"


def compare(column: str, operator: str) -> str:
    """A condition with one parameter."""
    return f"{column} {operator} ?"


def compare_text(column: str, operator: str) -> str:
    """A condition with one parameter on the column's bytes as text."""
    return f"CAST({column} AS TEXT) {operator} ?"


def either(conditions: Iterable[str]) -> str:
    """True if one of the conditions is true; without any it is false."""
    return f"({' OR '.join(conditions) or 'false'})"


def select(columns: Iterable[str], source: str) -> str:
    """All rows of a small table. columns: expressions. source: what stands after FROM."""
    return f"SELECT {', '.join(columns)} FROM {source}"


def select_offsets(
    columns: Iterable[str], table: str, conditions: Iterable[str], key: Sequence[str], *, descending: bool
) -> str:
    """Rows of [offset, offset) in the order of `key`. Parameters: both offsets, then the conditions'."""
    order = ", ".join(f"{name} DESC" if descending else name for name in key)
    where = " AND ".join(("offset >= ?", "offset < ?", *conditions))
    return f"{select(columns, table)} WHERE {where} ORDER BY {order}"


def declare_table(table: str, columns: Iterable[str], key: Iterable[str]) -> str:
    """How a virtual table is declared. columns: name, type and HIDDEN as SQL has them."""
    return f"CREATE TABLE {table} ({', '.join(columns)}, PRIMARY KEY ({', '.join(key)})) WITHOUT ROWID"


def touch_table(table: str) -> str:
    """Makes SQLite connect a virtual table; reads no row of it."""
    return f"SELECT 1 FROM {table} LIMIT 0"
