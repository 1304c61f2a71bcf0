"""One partition: a file, its writer and reader, and the range they share. The contract's PartitionLog.

Owns who may do what when; the SQL of it is in writer.py and readers.py.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import apsw

from takhin.disk import connection, versions
from takhin.disk import statements as sql
from takhin.disk.faults import lost, translated
from takhin.disk.witness import Mark, Witness
from takhin.errors import (
    OffsetOutOfRangeError,
    PartitionUnavailableError,
    StartupError,
    StorageFullError,
    UnavailableError,
    UnknownTopicError,
)
from takhin.model import Appended, Batch, CommittedOffset, Records, TopicPartition
from takhin.settings import StorageSettings
from takhin.storage.growth import Growth
from takhin.storage.sqlite.admission import QueueBytes
from takhin.storage.sqlite.group import Tail
from takhin.storage.sqlite.offsets import OffsetIndex
from takhin.storage.sqlite.open_files import OpenFiles, PartitionFile
from takhin.storage.sqlite.reader import Reader, topic_facts
from takhin.storage.sqlite.space import DiskSpace
from takhin.storage.sqlite.threads import Committer
from takhin.storage.sqlite.troubles import Troubles
from takhin.storage.sqlite.writer import Writer

TRIM_RECORDS_MAX = 2_000
"""Records of one step of a trim: their DELETE occupies the event loop."""
GIVE_BACK_PAGES = 64
"""Pages of one step after it, which moves as many from the file's end into those that became free."""


class SqlitePartition:
    """The log in one file."""

    def __init__(
        self,
        path: Path,
        topic: str,
        partition: int,
        *,
        files: OpenFiles,
        committer: Committer,
        checkpointer: Committer,
        queue: QueueBytes,
        witness: Witness,
        space: DiskSpace,
        troubles: Troubles,
        settings: StorageSettings,
        offsets: OffsetIndex,
    ) -> None:
        """Open the file. Raises StartupError if it is another's, or contradicts itself."""
        self.topic = topic
        self.partition = partition
        self.closed = False
        self._growth = Growth()
        self._offsets = offsets
        self._settings = settings
        self._file = PartitionFile(path, files, idle=lambda: self._writer.idle, opened=self._opened)
        write = connection.open_writer(path)
        try:
            self.topic_id, self.incarnation_id, self._start_offset, mark = _identity(
                write, path, topic, partition
            )
            slot = witness.slot(self.topic_id, partition)
            if slot.mark is not None:
                _check_whole(path, topic, partition, mark, slot.mark)
            if witness.is_copy:
                self.incarnation_id = str(uuid.uuid4())
                write.execute(sql.SET_INCARNATION, (self.incarnation_id,))
            versions.upgrade(write)
            self._tail = Tail(topic, partition, mark, *_times(write), write.execute(sql.COUNT_PRODUCERS).get)
            offsets.note(TopicPartition(topic, partition), _committed(write))
            self.topic_facts = topic_facts(write)
            """(partition count, config) of the topic; None in all partitions but the first."""
        except BaseException:
            connection.close_untouched(write, path)
            raise
        self._durable_start = self._start_offset
        self._file.keep(write)
        self._reader = Reader(self._file)
        self._writer = Writer(
            self._file,
            self._tail,
            committer=committer,
            checkpointer=checkpointer,
            queue=queue,
            witness=slot,
            space=space,
            troubles=troubles,
            settings=settings,
            committed=self._growth.wake,
        )

    @property
    def start_offset(self) -> int:
        return self._start_offset

    @property
    def end_offset(self) -> int:
        return self._tail.end_offset

    def append(self, batch: Batch) -> asyncio.Future[Appended]:
        self._check_open()
        return self._writer.append(batch)

    async def read(self, offset: int, *, max_bytes: int, max_records: int) -> Records:
        with translated(self.topic, self.partition):
            await self._ready()
            start, end = self._start_offset, self._tail.end_offset
            if not start <= offset <= end:
                raise OffsetOutOfRangeError(self.topic, self.partition, offset, start, end)
            records = self._reader.read(offset, end, max_bytes=max_bytes, max_records=max_records)
        if not records.rows and offset < end:
            raise lost(offset, self.topic, self.partition)
        return records

    async def offset_for_time(self, timestamp: int) -> int:
        with translated(self.topic, self.partition):
            await self._ready()
            return self._reader.offset_for_time(timestamp, self._start_offset, self._tail.end_offset)

    async def trim(self, offset: int) -> None:
        self._check_open()
        end = self._tail.end_offset
        if offset > end:
            raise OffsetOutOfRangeError(self.topic, self.partition, offset, self._start_offset, end)
        while self._start_offset < offset:
            self._check_open()
            step = min(offset, self._start_offset + TRIM_RECORDS_MAX)
            trimmed = self._writer.change(partial(self._trim, step))
            trimmed.add_done_callback(partial(self._trimmed, step))
            await asyncio.shield(trimmed)  # goes on also if the one who asked has gone
        with suppress(StorageFullError):  # which needs room itself; what is trimmed is trimmed
            while not self.closed and await asyncio.shield(self._give_back()):
                pass

    async def _give_back(self) -> bool:
        """Give pages that became free back to the file system. True if there are more."""
        left = 0

        def step(write: apsw.Connection) -> None:
            nonlocal left
            write.execute(sql.GIVE_PAGES_BACK.format(GIVE_BACK_PAGES)).fetchall()
            left = write.execute(sql.FREE_PAGES).get

        await self._writer.change(step)
        return left > 0

    def _trim(self, start: int, write: apsw.Connection) -> None:
        for statement in (*sql.TRIM, sql.SET_START):
            write.execute(statement, (start,))
        # Before the COMMIT, not after it: no read may meet the gap and take it for the log's next record.
        self._start_offset = max(self._start_offset, start)

    def _trimmed(self, start: int, done: asyncio.Future[None]) -> None:
        if done.exception() is None:
            self._durable_start = max(self._durable_start, start)
        else:
            self._start_offset = self._durable_start

    async def grown(self, end: int) -> None:
        while not self.closed and self.end_offset <= end:
            await self._growth.wait()

    @property
    def size_bytes(self) -> int:
        return self._file.path.stat().st_size + self._file.wal_bytes()

    def commit_offset(self, group_id: str, committed: CommittedOffset) -> asyncio.Future[None]:
        """Remember a group's offset; resolves when durable."""
        self._check_open()
        changed = self._writer.change(lambda write: _run(write, sql.PUT_COMMITTED, (group_id, *committed)))
        changed.add_done_callback(partial(self._noted, group_id, committed))
        return changed

    def forget_group(self, group_id: str) -> asyncio.Future[None]:
        """Drop a group's offset; resolves when durable."""
        self._check_open()
        changed = self._writer.change(lambda write: _run(write, sql.FORGET_GROUP, (group_id,)))
        changed.add_done_callback(partial(self._noted, group_id, None))
        return changed

    def _noted(self, group_id: str, committed: CommittedOffset | None, done: asyncio.Future[None]) -> None:
        if done.exception() is None:
            self._offsets.note(TopicPartition(self.topic, self.partition), [(group_id, committed)])

    async def restart_wal(self) -> None:
        """Make sure that the WAL is not begun anew while its `.db` file is held. Raises TimeoutError."""
        if self._writer.failed:  # it is not written at all, once an attempt to recover is over
            await self._writer.pause()
        if not self._file.wal_bytes():
            return
        try:
            await self._writer.change(lambda _: None)
        except UnavailableError as error:
            if not self._writer.failed:
                raise TimeoutError(str(error)) from error
            await self._writer.pause()  # what has failed is not written at all, once an attempt is over

    @property
    def wal_bytes_left(self) -> int:
        """How much of the WAL is not yet in the `.db` file."""
        return self._writer.wal_bytes_left

    async def cut_wal(self, room: Callable[[], int]) -> None:
        """Give the room of the WAL back, where that lengthens the `.db` file by no more than `room` says."""
        if (
            self._writer.idle
            and self._file.is_open
            and self._file.wal_bytes()
            and self._file.growth_bytes() <= room()
        ):
            await self._writer.cut_wal()

    def held_no_longer(self) -> None:
        self._writer.held_no_longer()

    async def close(self) -> None:
        """Refuse what is new, finish what is queued, copy the WAL into the file, let go of it."""
        self.closed = True
        self._growth.wake()
        await self._writer.drain()
        closed = asyncio.get_running_loop().create_future()
        self._file.close(lambda: closed.set_result(None))
        await closed

    async def _ready(self) -> None:
        """Return when the file is open. Raises UnknownTopicError once the log is closed."""
        self._check_open()
        retry = (opening := asyncio.Event()).set
        if self._file.ready(retry):
            return
        try:
            async with asyncio.timeout(self._settings.busy_wait_ms_max / 1_000):
                while True:
                    await opening.wait()
                    self._check_open()
                    opening.clear()
                    if self._file.ready(retry):
                        return
        except TimeoutError:
            self._check_open()
            raise PartitionUnavailableError(
                f"topic {self.topic!r} partition {self.partition} cannot be opened now: as many others as "
                f"storage.open_partitions_max allows ({self._settings.open_partitions_max}) are in use",
                topic=self.topic,
                partition=self.partition,
            ) from None
        finally:
            self._file.cancel(retry)

    def _opened(self, write: apsw.Connection) -> None:
        self._writer.opened(write)  # which is made after the file

    def _check_open(self) -> None:
        if self.closed:
            raise UnknownTopicError(self.topic)


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
        yield group_id, CommittedOffset(*committed)


def _run(write: apsw.Connection, statement: str, bindings: tuple[str | int, ...]) -> None:
    write.execute(statement, bindings)
