"""How a partition's file is opened when its topic is: whose log it is, whether it is whole, what it holds.

Nothing in the file is changed before it is known that the log is whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from takhin.disk import connection, versions
from takhin.disk import statements as sql
from takhin.disk.witness import Mark, Witness
from takhin.errors import StartupError
from takhin.model import CommittedOffset, TopicConfig, TopicPartition
from takhin.storage.sqlite.file import LogFile
from takhin.storage.sqlite.group import LogState
from takhin.storage.sqlite.life import Life
from takhin.storage.sqlite.offset_index import OffsetIndex
from takhin.storage.sqlite.partition import SqlitePartition
from takhin.storage.sqlite.reader import topic_facts
from takhin.storage.sqlite.shared import Shared


@dataclass(frozen=True, slots=True)
class Opened:
    """A partition that was opened, and what its file says of the topic.

    facts: (partition count, config), which partition 0's file alone has.
    """

    log: SqlitePartition
    topic_id: str
    facts: tuple[int, TopicConfig] | None


def open_partition(
    shared: Shared, path: Path, at: TopicPartition, witness: Witness, offsets: OffsetIndex
) -> Opened:
    """Open a partition's file. Raises StartupError if it is another's, or contradicts itself; apsw.Error."""
    write = connection.open_writer(path)
    try:
        topic_id, incarnation_id, start, mark = _identity(write, path, *at)
        slot = witness.slot(topic_id, at.partition)
        if slot.mark is not None:
            _check_whole(path, *at, mark, slot.mark)
        if witness.is_copy:
            incarnation_id = str(uuid.uuid4())
            write.execute(sql.SET_INCARNATION, (incarnation_id,))
        versions.upgrade(write)
        producers = write.execute(sql.COUNT_PRODUCERS).get
        state = LogState(*at, start, start, mark, *_times(write), producers)
        offsets.note(at, _committed(write))
        facts = topic_facts(write)
    except BaseException:
        connection.close_untouched(write, path)
        raise
    file = LogFile(path)
    life = Life(shared, file, state, slot, offsets)
    life.adopt(write)
    log = SqlitePartition(shared, file, state, life, incarnation_id=incarnation_id)
    return Opened(log, topic_id, facts)


def _identity(write: apsw.Connection, path: Path, topic: str, partition: int) -> tuple[str, str, int, Mark]:
    """(topic id, incarnation id, start, end) as the file says, checked against what it should be."""
    row = write.execute(sql.GET_LOG).fetchone()
    if row is None:
        raise StartupError(f"{path} says nothing of whose log it is (its table log is empty)")
    if row[:2] != (topic, partition):
        raise StartupError(
            f"{path} is misplaced: it holds partition {row[1]} of topic {row[0]!r}, "
            f"not partition {partition} of topic {topic!r}"
        )
    topic_id, incarnation_id, start = row[2:]
    mark = Mark(*write.execute(sql.GET_END).get)
    last = write.execute(sql.LAST_OFFSET).get
    if last is not None and last >= mark.end_offset:
        raise StartupError(
            f"{path} contradicts itself: it has a record {last}, but the log ends at {mark.end_offset}"
        )
    return topic_id, incarnation_id, start, mark


def _check_whole(path: Path, topic: str, partition: int, found: Mark, noted: Mark) -> None:
    """Refuse a log that has lost commits that the witness knows of."""
    if (lost := found.missing(noted)) is None:
        return
    raise StartupError(
        f"{path} is short: {lost} from it. Its write-ahead log was damaged or removed, or an older copy was "
        "put in its place. Put the whole file back, with its -wal, or restore a backup, or go on without "
        f"what is missing: takhin recover --topic {topic} --partition {partition}"
    )


def _times(write: apsw.Connection) -> tuple[int, int]:
    """(highest timestamp of all records, else -1; offset of the last row of the time index, else 0)."""
    highest, indexed = write.execute(sql.LAST_TIME).fetchone() or (-1, 0)
    of_rest = write.execute(sql.HIGHEST_TIME_FROM, (indexed,)).get
    return highest if of_rest is None else max(highest, of_rest), indexed


def _committed(write: apsw.Connection) -> Iterator[tuple[str, CommittedOffset]]:
    """(group, what it has committed) for all groups of a file."""
    for group_id, *committed in write.execute(sql.ALL_COMMITTED):
        yield str(group_id), CommittedOffset(*committed)
