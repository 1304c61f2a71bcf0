"""The tables of a partition's file beside records and headers, and the pages at which they may begin.

A table's first page is noted on the first page of the file. Where that is lost, the tables of version 2 are
where they always are. Those of later versions follow in the order of the versions, from page 11 on; and one
page among them, behind the tables of the version in which the file was new, is the index of its migrations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from takhin.copies.runs import Run, within
from takhin.disk import versions
from takhin.schema import PAGE_BYTES, VERSION
from takhin.schema.checksums import SINCE_VERSION


class Table(NamedTuple):
    """A small table. columns: those that are read. key: its columns in order. types: of all columns read."""

    name: str
    columns: str
    key: str
    types: tuple[type, ...]


COMMITTED = Table(
    "committed_offsets", "group_id, offset, metadata, committed_at", "group_id", (str, int, str, int)
)
PRODUCERS = Table(
    "producer_batches",
    "producer_id, sequence, record_count, offset, timestamp, slot",
    "producer_id, slot",
    (bytes, int, int, int, int, int),
)
CONFIGS = Table("topic_configs", "key, value", "key", (str, str))
LOST = Table("lost_offsets", "first, beyond", "first", (int, int))
TAILS = Table("zero_tails", "offset, position, length", "offset, position", (int, int, int))
COMPACTIONS = Table("compactions", "compacted_below, records_below, tombstones_kept", "id", (int, int, int))
PASSES = Table("compaction_history", "end_offset, began_at", "end_offset", (int, int))
SOURCES = Table(
    "sources",
    "group_id, incarnation_id, offset, topic, partition",
    "group_id, incarnation_id",
    (str, str, int, str, int),
)

SINCE = {
    PRODUCERS: versions.PRODUCERS_SINCE,
    LOST: versions.LOST_SINCE,
    TAILS: versions.TAILS_SINCE,
    COMPACTIONS: versions.COMPACTION_SINCE,
    PASSES: versions.COMPACTION_SINCE,
    SOURCES: versions.SOURCES_SINCE,
}
"""The tables of later versions that are read, by the first version that has them."""
PLACES = {3: (PRODUCERS,), 4: (LOST,), 5: (TAILS,), 6: (None, COMPACTIONS, PASSES), 7: (SOURCES,)}
"""By version, the tables that it adds, in order; None for one that is made from the records again."""
FIRST_ROOT = 11
MIGRATIONS_INDEX = (b"\x0a", b"takhinm0001")
"""How the page of the index of migrations begins, and what is in it."""


class Layout(NamedTuple):
    """Where a file of a version has its later tables. migrations: the page of the index of its migrations."""

    version: int
    migrations: int
    roots: Mapping[Table, int]


def layouts() -> Iterator[Layout]:
    """All that there may be, the likeliest first: a new file's, then those of files that were upgraded."""
    for version in range(VERSION, SINCE_VERSION - 1, -1):
        added = [(since, table) for since in range(3, version + 1) for table in PLACES[since]]
        for made_in in range(version, SINCE_VERSION - 1, -1):
            index = FIRST_ROOT + sum(1 for since, _ in added if since <= made_in)
            pages = (page for page in range(FIRST_ROOT, index + len(added) + 1) if page != index)
            roots = {table: page for page, (_, table) in zip(pages, added, strict=False) if table is not None}
            yield Layout(version, index, roots)


def whole_batches(rows: Sequence[Sequence[Any]], whole: Sequence[Run]) -> Iterator[Sequence[Any]]:
    """Those of producers' last batches that may be remembered. whole: the offsets whose records are there.

    A batch that was lost, if only in part, may be sent again, so it is not remembered, nor are those before
    it if there are any after it.
    """
    for _, batches in groupby(sorted(rows, key=tuple), lambda row: row[0]):
        remembered: list[Sequence[Any]] = []
        broken = False
        for row in batches:
            _, sequence, count, offset, *_ = row
            if within([Run(offset, offset + count)], whole) != [Run(offset, offset + count)]:
                broken = True
                continue
            if broken or (remembered and remembered[-1][1] + remembered[-1][2] != sequence):
                remembered = []
            broken = False
            remembered.append(row)
        yield from remembered


def has_migrations_index(path: Path, page: int) -> bool:
    """True if that page of a closed file looks like the index of migrations."""
    begin, within = MIGRATIONS_INDEX
    with path.open("rb") as file:
        file.seek((page - 1) * PAGE_BYTES)
        content = file.read(PAGE_BYTES)
    return content.startswith(begin) and within in content
