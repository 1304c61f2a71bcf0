"""Views for people with an sqlite3 shell. This file owns their SQL; the broker never reads them."""


def _first_char(column: str) -> str:
    """SQL: the bytes of the character at position `at` of a blob, as SQLite would write it."""
    return f"CAST(char(unicode(CAST(substr({column}, at, 4) AS TEXT))) AS BLOB)"


def _is_text(column: str) -> str:
    """SQL: 1 if the blob is UTF-8 without NULs, else 0.

    One GLOB recognises ASCII. Anything else is walked character by character: a character is well formed
    if SQLite reads it and writes the same bytes again.
    """
    char = _first_char(column)
    return f"""CASE
    WHEN instr({column}, x'00') THEN 0
    WHEN CAST({column} AS TEXT) NOT GLOB '*[^' || char(1) || '-' || char(127) || ']*' THEN 1
    ELSE (
      WITH RECURSIVE walk(at, ok) AS (
        SELECT 1, 1
        UNION ALL
        SELECT at + length({char}), {char} = substr({column}, at, length({char}))
        FROM walk WHERE ok AND at <= length({column})
      )
      SELECT min(ok) FROM walk
    ) END"""


def _text(column: str) -> str:
    """SQL: the blob as text if it is text, else NULL."""
    return f"CASE WHEN {_is_text(column)} THEN CAST({column} AS TEXT) END"


def _hex(column: str) -> str:
    """SQL: the blob in hexadecimal if it is not text, else NULL."""
    return f"CASE WHEN NOT {_is_text(column)} THEN hex({column}) END"


def _time(column: str) -> str:
    """SQL: milliseconds since 1970 as ISO 8601 text in UTC."""
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1000.0, 'unixepoch')"


RECORDS_TEXT = f"""
CREATE VIEW records_text AS
SELECT
  r.offset AS offset,
  {_time("r.timestamp")} AS time,
  {_text("r.key")} AS key,
  {_text("r.value")} AS value,
  {_hex("r.key")} AS key_hex,
  {_hex("r.value")} AS value_hex,
  (
    SELECT json_group_array(json_object('key', h.key, 'value', h.value, 'value_hex', h.value_hex))
    FROM (
      SELECT key, {_text("headers.value")} AS value, {_hex("headers.value")} AS value_hex
      FROM headers WHERE headers.offset = r.offset ORDER BY position
    ) AS h
  ) AS headers
FROM records AS r
"""

LAG = f"""
CREATE VIEW lag AS
SELECT
  c.group_id AS group_id,
  c.offset AS committed_offset,
  log.end_offset AS end_offset,
  log.end_offset - c.offset AS lag,
  {_time("c.committed_at")} AS committed_at,
  c.metadata AS metadata
FROM committed_offsets AS c CROSS JOIN log
"""
