"""How a partition's file is opened when its topic is: whose log it is, whether it is whole, what it holds.

Nothing in the file is changed before it is known that the log is whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import apsw

from takhin.disk import connection, versions
from takhin.disk import statements as sql
from takhin.disk.header import HeaderError, checked_header
from takhin.disk.identity import LogRow, identity_fault, read_log_row
from takhin.disk.tables import tables_fault
from takhin.disk.witness import Mark, Slot, Witness
from takhin.disk.zero_tails import check_committed
from takhin.errors import StartupError
from takhin.model import CommittedOffset, TopicConfig, TopicPartition
from takhin.storage.compaction import count_records
from takhin.storage.sqlite.file import LogFile
from takhin.storage.sqlite.group import LogState, Pages
from takhin.storage.sqlite.life import Life
from takhin.storage.sqlite.offset_index import OffsetIndex
from takhin.storage.sqlite.partition import SqlitePartition
from takhin.storage.sqlite.reader import topic_facts
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.times import read_ends, read_times
from takhin.storage.sqlite.unavailable import Known
from takhin.storage.sqlite.writes_compaction import read_history

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """An open file, and what it says. Made on a worker thread, it becomes a partition on the loop.

    next_times: the timestamps of the first records at or after committed offsets.
    source_groups: those of whose sources it remembers something.
    facts: (partition count, config), which partition 0's file alone has.
    """

    file: LogFile
    at: TopicPartition
    write: apsw.Connection
    topic_id: str
    incarnation_id: str
    state: LogState
    slot: Slot
    committed: Sequence[tuple[str, CommittedOffset]]
    next_times: Mapping[int, int]
    source_groups: Sequence[str]
    facts: tuple[int, TopicConfig] | None

    def partition(self, shared: Shared, offsets: OffsetIndex) -> SqlitePartition:  # on the loop
        """Give the file its life."""
        offsets.forget(self.at)
        offsets.note(self.at, self.committed, self.next_times)
        shared.sources.note(self.at, dict.fromkeys(self.source_groups, True))
        life = Life(shared, self.file, self.state, self.slot, offsets)
        life.adopt(self.write)
        return SqlitePartition(shared, self.file, self.state, life, incarnation_id=self.incarnation_id)

    def close(self) -> None:
        """Leave the file as it was found."""
        connection.close_untouched(self.write, self.file.path)


UNOPENED = (apsw.Error, KeyError, ValueError, OSError, StartupError)
"""What `open_file` is known to raise for a file that cannot be served. One from elsewhere may lead to others,
by a text where a number belongs."""


def open_file(path: Path, at: TopicPartition, witness: Witness, shared: Shared) -> Found:
    """Open a partition's file, on a worker thread. Raises StartupError if it contradicts itself; UNOPENED.

    A topic's files are opened by one thread: apsw lets go of the interpreter at each step, so that the loop
    goes on meanwhile.
    """
    file = LogFile(path, native=shared.native)
    write = connection.open_writer(path)
    try:
        file.note_place()
        found = _identity(write, path, *at)
        mark, start, incarnation_id = found.mark, found.start_offset, found.incarnation_id
        slot = witness.slot(found.topic_id, at.partition)
        if slot.mark is not None:
            _check_whole(path, *at, mark, slot.mark)
        elif witness.was_copy:  # the first time that a log of the copy is opened here
            incarnation_id = str(uuid.uuid4())
            write.execute(sql.SET_INCARNATION, (incarnation_id,))
            slot.note(mark)
            witness.remember(found.topic_id, at.partition, mark)
        versions.upgrade(write)
        producers, sources = write.execute(sql.COUNT_PRODUCERS).get, write.execute(sql.COUNT_SOURCES).get
        lost = _lost(write)
        times = read_times(write, start, shared.clock())
        last, history = max(start, mark.end_offset - 1), read_history(write)
        pages, ends = Pages.of(write, write.execute(sql.COMMITTED_PAGES).get), read_ends(write)
        state = LogState(*at, start, start, mark, times, pages, producers, sources, ends, last, history, lost)
        committed, facts = list(_committed(write)), topic_facts(write, shared.topic_defaults)
        next_times = _next_times(write, {of.offset for _, of in committed}, mark.end_offset)
        groups = _source_groups(write) if sources else []
    except BaseException:
        connection.close_untouched(write, path)
        raise
    return Found(
        file, at, write, found.topic_id, incarnation_id, state, slot, committed, next_times, groups, facts
    )


UNKNOWN = Known()


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What can be read of a file that cannot be served. topic_id: empty where that is unknown."""

    known: Known = UNKNOWN
    topic_id: str = ""
    facts: tuple[int, TopicConfig] | None = None
    committed: Sequence[tuple[str, CommittedOffset]] = ()
    source_groups: Sequence[str] = ()


def glimpse(path: Path, at: TopicPartition, defaults: TopicConfig) -> Glimpse:
    """Read what can be read of a file that cannot be served, and leave it as it is. Raises nothing."""
    try:
        checked_header(path)
        write = connection.open_writer(path)
    except (HeaderError, *UNOPENED):
        return Glimpse()
    try:
        log = _tried(lambda: read_log_row(write))
        if log is None or identity_fault(log, *at) is not None:
            return Glimpse()
        missing = _tried(lambda: _missing(write, log)) or 0
        known = Known(log.start_offset, log.end_offset, log.incarnation_id, missing)
        committed = _tried(lambda: list(_committed(write))) or ()
        groups = _tried(lambda: _source_groups(write)) or ()
        return Glimpse(known, log.topic_id, _tried(lambda: topic_facts(write, defaults)), committed, groups)
    finally:
        connection.close_untouched(write, path)


def _missing(write: apsw.Connection, log: LogRow) -> int:
    """How many offsets of a log have no record, by what its file says."""
    start, end = log.start_offset, log.end_offset
    return end - start - count_records(start, end, read_history(write).gaps, _lost(write))


def _lost(write: apsw.Connection) -> list[tuple[int, int]]:
    return [(int(first), int(beyond)) for first, beyond in write.execute(sql.GET_LOST)]


def _tried(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Exception:  # noqa: BLE001  why the file is not served is known already
        return None


def _identity(write: apsw.Connection, path: Path, topic: str, partition: int) -> LogRow:
    """What the file says of its log, checked against its place and its records."""
    if (altered := tables_fault(write)) is not None:
        raise StartupError(f"{path} {altered}")
    log = read_log_row(write)
    fault = identity_fault(log, topic, partition)
    if log is None or fault is not None:
        raise StartupError(f"{path} {fault}")
    last = write.execute(sql.LAST_OFFSET).get
    if last is not None and last >= log.end_offset:
        raise StartupError(
            f"{path} contradicts itself: it has a record {last}, but the log ends at {log.end_offset}"
        )
    return log


def _check_whole(path: Path, topic: str, partition: int, found: Mark, noted: Mark) -> None:
    """Refuse a log that has lost commits that the witness knows of."""
    if (lost := found.missing(noted)) is None:
        return
    raise StartupError(
        f"{path} is short: {lost} from it. Its write-ahead log was damaged or removed, or an older copy was "
        "put in its place. Put the whole file back, with its -wal, or restore a backup, or go on without "
        f"what is missing: takhin recover --topic {topic} --partition {partition}"
    )


def _next_times(write: apsw.Connection, offsets: Iterable[int], end: int) -> dict[int, int]:
    """The timestamps of the first records at or after some offsets, where there are any."""
    found = {offset: write.execute(sql.TIMESTAMP_FROM, (offset, end)).get for offset in offsets}
    return {offset: timestamp for offset, timestamp in found.items() if timestamp is not None}


def _source_groups(write: apsw.Connection) -> list[str]:
    return [str(group_id) for (group_id,) in write.execute(sql.SOURCE_GROUPS)]


def _committed(write: apsw.Connection) -> Iterator[tuple[str, CommittedOffset]]:
    """(group, what it has committed) for all groups of a file."""
    for group_id, *row in write.execute(sql.ALL_COMMITTED):
        committed = CommittedOffset(*row)
        check_committed(str(group_id), committed.committed_at)
        yield str(group_id), committed
