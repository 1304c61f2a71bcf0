"""Check data folders that no engine has open: stdin names them, one in a line as JSON.

This is a program of its own, because a test process that holds apsw's SQLite must not open the same files
through the standard library's: the two drop each other's locks. For each folder it prints a line with the
faults as JSON: a list of sentences. Files are opened as immutable, so that the check leaves no trace.
"""

import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

FAULTS = {
    "the file is damaged": "SELECT * FROM pragma_integrity_check WHERE integrity_check != 'ok'",
    # The first leaves them out if the schema has views and certain names.
    "free pages or the pointer map are damaged": (
        "SELECT * FROM pragma_integrity_check('sqlite_schema') WHERE integrity_check != 'ok'"
    ),
    "there is not one log row": "SELECT count(*) FROM log HAVING count(*) != 1",
    "the log row is of another partition": (
        "SELECT topic, partition FROM log WHERE topic != :topic OR partition != :partition"
    ),
    "the log's range is impossible": (
        "SELECT start_offset, end_offset FROM log WHERE NOT 0 <= start_offset OR start_offset > end_offset"
    ),
    "records do not lie densely from where compaction ends, or from start_offset, to end_offset": """
        WITH dense AS (
          SELECT max(start_offset, compacted_below) AS first, start_offset, end_offset, records_below
          FROM log, compactions)
        SELECT start_offset, first, end_offset, lowest, highest, below, records_below, total, lost
        FROM dense,
          (SELECT min(offset) AS lowest, max(offset) AS highest, count(*) AS total,
             count(*) FILTER (WHERE offset < (SELECT first FROM dense)) AS below FROM records),
          (SELECT coalesce(sum(beyond - max(lost_offsets.first, dense.first)), 0) AS lost
           FROM lost_offsets, dense WHERE beyond > dense.first)
        WHERE total - below != end_offset - first - lost OR below != records_below
        OR total > 0 AND (lowest < start_offset OR highest >= end_offset)
        OR total > below AND highest != end_offset - 1
        OR first = start_offset AND end_offset > first AND lowest != start_offset""",
    "there is not one row of compaction, or its pass makes no sense": """
        SELECT * FROM compactions, log WHERE (SELECT count(*) FROM compactions) != 1
        OR compacted_below > end_offset OR records_below < 0 OR pass_end_offset > compacted_below
        OR read_to NOT BETWEEN pass_end_offset AND end_offset OR tombstones_below > pass_end_offset
        OR (pass_end_offset IS NULL) != (next_offset IS NULL)""",
    "a header has no record": (
        "SELECT offset, position FROM headers WHERE offset NOT IN (SELECT offset FROM records)"
    ),
    "header positions are not dense from 0": """
        SELECT offset FROM headers GROUP BY offset
        HAVING min(position) != 0 OR max(position) != count(*) - 1""",
    "a committed offset lies outside 0 to end_offset": """
        SELECT group_id, offset, end_offset FROM committed_offsets, log
        WHERE offset NOT BETWEEN 0 AND end_offset""",
    "a producer's batches are not in sequence, or outside the log": """
        SELECT hex(producer_id), slot, sequence, record_count, offset, follows, begins, end_offset FROM (
          SELECT *,
            lag(sequence + record_count) OVER own AS follows, lag(offset + record_count) OVER own AS begins
          FROM producer_batches, log WINDOW own AS (PARTITION BY producer_id ORDER BY sequence))
        WHERE sequence != coalesce(follows, sequence) OR offset < coalesce(begins, 0)
        OR record_count < 1 OR offset + record_count > end_offset
        OR slot NOT BETWEEN 0 AND 4 OR length(producer_id) != 16""",
    "a source is not one that was taken": """
        SELECT * FROM sources
        WHERE offset < 0 OR partition < 0 OR '' IN (group_id, topic, incarnation_id)""",
    "a search by time would miss a record": """
        SELECT offset, timestamp FROM records WHERE timestamp > (
          SELECT highest FROM time_blocks WHERE beyond > records.offset ORDER BY beyond LIMIT 1)""",
    "a block of times is outside the log": """
        SELECT beyond, start_offset, end_offset FROM time_blocks, log
        WHERE beyond NOT BETWEEN start_offset + 1 AND end_offset""",
    "the old index of times is not empty": "SELECT * FROM time_index",
    "a row of zero_tails is missing, wrong or one too many": """
        WITH hexed AS (
          SELECT offset, -1 AS position, 14312 AS least, hex(key) || hex(value) AS content FROM records
          UNION ALL SELECT offset, position, 2055, hex(key) || hex(value) FROM headers),
        needed AS (
          SELECT offset, position, (length(rtrim(content, '0')) + 1) / 2 AS length FROM hexed
          WHERE length(content) / 2 - (length(rtrim(content, '0')) + 1) / 2 >= least)
        SELECT offset, needed.position, needed.length, noted.length
        FROM needed FULL JOIN (SELECT * FROM zero_tails WHERE offset >= 0) AS noted USING (offset, position)
        WHERE needed.length IS NOT noted.length AND offset >= coalesce(
          (SELECT length FROM zero_tails WHERE offset = -1), 0)""",
}
"""What must never be the case, and a query whose rows show it."""


def faults_of_file(path: Path) -> Iterator[str]:
    """A line for each thing that is wrong in one partition's file."""
    db = sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)
    try:
        names = {"topic": path.parent.name, "partition": int(path.stem)}
        for fault, query in FAULTS.items():
            rows = db.execute(query, names if ":" in query else {}).fetchmany(3)
            if rows:
                yield f"{path}: {fault}: {rows}"
    finally:
        db.close()


def faults_of_topic(folder: Path) -> Iterator[str]:
    """A line for each thing that is wrong in one topic's folder and its files."""
    names = sorted(path.name for path in folder.iterdir())
    expected = sorted(f"{n}.db" for n in range(len(names)))
    if not names or names != expected:
        yield f"{folder}: holds {names} instead of partition files alone, numbered from 0"
    for name in names:
        if re.fullmatch(r"[0-9]+\.db", name):
            yield from faults_of_file(folder / name)


def faults_of(data_dir: Path) -> list[str]:
    return [fault for folder in sorted((data_dir / "topics").iterdir()) for fault in faults_of_topic(folder)]


def main() -> None:
    for line in sys.stdin:
        try:
            found = faults_of(Path(json.loads(line)))
        except Exception as error:  # noqa: BLE001  what prevents a check is a fault, too
            found = [f"{line.strip()} cannot be checked: {error!r}"]
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
