"""One partition's log in one file. The contract's PartitionLog.

Owns what a log promises to its callers; what is done with the file, and when, is in life.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

import apsw
import structlog

from takhin.disk.faults import FileChangedError, FileGoneError, NotNowError, is_damage, lost, translated
from takhin.disk.witness import Mark
from takhin.errors import (
    OffsetOutOfRangeError,
    PartitionUnavailableError,
    UnavailableError,
    UnknownTopicError,
)
from takhin.logs import debugging
from takhin.model import (
    INT64_MAX,
    NO_TIMESTAMP,
    Appended,
    Batch,
    CommittedOffset,
    OffsetAtTime,
    PartitionState,
    Records,
    TopicConfig,
    TopicPartition,
)
from takhin.storage.contract import Fence
from takhin.storage.sqlite.compactor import Compactor
from takhin.storage.sqlite.file import LogFile
from takhin.storage.sqlite.group import LogState
from takhin.storage.sqlite.life import Life
from takhin.storage.sqlite.reader import Reader
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.steps import Step
from takhin.storage.sqlite.times import Sought
from takhin.storage.sqlite.trimmer import Trimmer
from takhin.storage.sqlite.writes import (
    AlterTopic,
    Append,
    CommitOffset,
    CommitOnly,
    ForgetOffset,
    ForgetSources,
)
from takhin.turns import others_turn

logger = structlog.get_logger()


class SqlitePartition:
    """The log in one file."""

    def __init__(
        self, shared: Shared, file: LogFile, state: LogState, life: Life, *, incarnation_id: str
    ) -> None:
        self.topic = state.topic
        self.partition = state.partition
        self.incarnation_id = incarnation_id
        self.closed = False
        self.life = life
        self._closed_by: UnavailableError | None = None
        self._shared = shared
        self._file = file
        self._state = state
        self._reader = Reader(file, state, native=shared.native)
        self.trimmer = Trimmer(shared, state, life, self)
        self._compactor = Compactor(shared, file, state, life, self)

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def start_offset(self) -> int:
        return self._state.start_offset

    @property
    def end_offset(self) -> int:
        return self._state.end_offset

    @property
    def mark(self) -> Mark:
        """How far the log has come."""
        return self._state.mark

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    def fit_page_caches(self) -> None:
        """Give back what the file caches above its share, while it is open and nobody uses it."""
        if self.life.can_close:
            self._file.fit_page_caches(self._shared.files.cache_kib)

    @property
    def record_count(self) -> int:
        return self._state.record_count

    @property
    def first_timestamp(self) -> int:
        first = self._state.ends.first
        return NO_TIMESTAMP if first is None else first

    @property
    def last_timestamp(self) -> int:
        last = self._state.ends.last
        return NO_TIMESTAMP if last is None else last

    @property
    def state(self) -> PartitionState:
        if self.life.failure is not None:
            trying = self.life.step is Step.RECOVER
            return PartitionState.RECOVERING if trying else PartitionState.FAILED
        return PartitionState.OPEN if self._file.is_open else PartitionState.CLOSED

    def check_available(self) -> None:
        self._check_open()

    def append(self, batch: Batch) -> asyncio.Future[Appended]:
        self._check_open()
        return self.life.submit(Append(batch))

    async def read(self, offset: int, *, max_bytes: int, max_records: int, below: int = INT64_MAX) -> Records:
        with translated(self.topic, self.partition):
            await self.ready()
            start, end = self.start_offset, self.end_offset
            if not start <= offset <= end:
                raise OffsetOutOfRangeError(self.topic, self.partition, offset, start, end)
            end = max(offset, min(end, below))
            records = self._reader.read(offset, end, max_bytes=max_bytes, max_records=max_records)
        if not records.rows and (missing := self._state.next_record(offset)) < end:
            raise lost(missing, self.topic, self.partition)
        if debugging():
            logger.debug(
                "read", partition=f"{self.topic}/{self.partition}", offset=offset, records=len(records.rows)
            )
        return records

    async def grown(self, end: int) -> None:
        while not self.closed and self.end_offset <= end:
            self.life.check_place()
            await self.life.growth.wait()

    async def offset_for_time(self, timestamp: int) -> OffsetAtTime:
        return await self.first_at_time(Sought(timestamp))

    def known_timestamp(self, offset: int) -> int | None:
        if offset <= self.start_offset < self.end_offset:
            return self._state.ends.first
        if offset >= self.end_offset - 1:
            return self._state.ends.last if offset < self.end_offset else NO_TIMESTAMP
        return self.life.offsets.time_at(TopicPartition(self.topic, self.partition), offset)

    async def timestamp_from(self, offset: int) -> int:
        with translated(self.topic, self.partition):
            await self.ready()
            found = self._reader.timestamp_from(max(offset, self.start_offset), self.end_offset)
        if found != NO_TIMESTAMP:
            self.life.offsets.note_times(TopicPartition(self.topic, self.partition), {offset: found})
        return found

    async def first_at_time(self, sought: Sought, until: int = INT64_MAX) -> OffsetAtTime:
        """The first record that is sought.

        The search ends behind `until`: the offset is then where it has come to, without a timestamp.
        """
        at = 0
        while True:
            with translated(self.topic, self.partition):
                await self.ready()
                at = max(at, self.start_offset)
                found, at = self._reader.search_time(sought, at, self.end_offset, self._state.times)
            if found is not None or at >= until:
                return found or OffsetAtTime(at, NO_TIMESTAMP)
            await others_turn()

    async def trim(self, offset: int) -> int:
        self._check_open()
        if offset > self.end_offset:
            raise OffsetOutOfRangeError(
                self.topic, self.partition, offset, self.start_offset, self.end_offset
            )
        return await self.trimmer.trim(offset)

    async def compaction_due(self, config: TopicConfig, now: int) -> bool:
        with translated(self.topic, self.partition):
            return await self._compactor.is_due(config, now)

    async def compact(self, config: TopicConfig, now: int) -> int:
        trouble, where = f"compaction_failed {self.topic}/{self.partition}", f"{self.topic}/{self.partition}"
        try:
            with translated(self.topic, self.partition):
                removed = await self._compactor.run(config, now)
        except UnavailableError as error:
            self._shared.troubles.begin(trouble, f"the compaction of {where} has failed: {error}")
            raise
        self._shared.troubles.end(trouble)
        return removed

    def end_compaction(self) -> None:
        """End the passes that run and wait: the topic is not compacted any more."""
        self._compactor.end()
        self._shared.troubles.end(f"compaction_failed {self.topic}/{self.partition}")

    # For the engine: group offsets, the topic's row, holds, space, the end

    def commit_offset(
        self, group_id: str, committed: CommittedOffset, fence: Fence | None = None
    ) -> asyncio.Future[None]:
        """Remember a group's offset; resolves when durable."""
        self._check_open()
        return self.life.submit(CommitOffset(group_id, committed, fence))

    def forget_offset(self, group_id: str) -> asyncio.Future[None]:
        """Drop a group's offset; resolves when durable."""
        self._check_open()
        return self.life.submit(ForgetOffset(group_id))

    def forget_sources(self, group_id: str, topics: Collection[str] | None) -> asyncio.Future[None]:
        """Forget what was taken of a group's sources, or of those in some topics; resolves when durable."""
        self._check_open()
        return self.life.submit(ForgetSources(group_id, topics))

    def check_writable(self) -> None:
        """Raises PartitionUnavailableError if the file has failed and takes no writes."""
        self.life.check_writable()

    async def landed(self) -> None:
        """Return when all that was queued before has landed or failed."""
        if not self.closed and not self.life.at_rest:
            with suppress(UnavailableError):  # then so has all before it
                await self.life.submit(CommitOnly())

    def alter_topic(self, num_partitions: int, configs: Mapping[str, str]) -> asyncio.Future[None]:
        """Change what partition 0's file says of the topic; resolves when durable."""
        self._check_open()
        return self.life.submit(AlterTopic(num_partitions, configs))

    async def commit_before_hold(self) -> None:
        """Commit once more, so that SQLite restarts the WAL now and not under a copier (see hold.py).

        Raises NotNowError.
        """
        if self.life.failure is not None:  # it writes nothing: only wait until an attempt under way has ended
            await self.life.rested()
        if self.closed or not self._file.wal_bytes:
            return
        try:
            await self.life.submit(CommitOnly())
        except UnavailableError as error:
            if self.life.failure is None:
                raise NotNowError(str(error)) from error
            await self.life.rested()

    @property
    def wal_bytes_left(self) -> int:
        """How much of the WAL is not yet in the `.db` file."""
        return self.life.checkpoint.bytes_left

    async def cut_wal(self, growth_bytes_max: int) -> None:
        """Give the space of the WAL back, if that lengthens the `.db` file by at most so much."""
        if self.life.can_close and self._file.wal_bytes and self._file.growth_bytes <= growth_bytes_max:
            await self.life.cut_wal()

    async def close(self, reason: UnavailableError | None = None) -> None:
        """Refuse what is new, finish what is queued, copy the WAL into the file, close it.

        reason: what callers get from now on, if the topic is not gone.
        """
        self.closed = True
        self._closed_by = reason
        self.life.growth.wake()
        await self.life.end()

    async def open_for_wal(self) -> None:
        """Open the file if it was closed with a WAL, which is copied when the file is closed again.

        A shell that opens and closes it would copy it, too, but without the checksums of its pages.
        """
        if not self._file.left_wal or self.closed:
            return
        try:
            await self.ready()
        except (apsw.Error, FileChangedError, UnavailableError, UnknownTopicError) as error:
            cause = error.__cause__ or error
            changed = isinstance(cause, FileChangedError) and not isinstance(cause, FileGoneError)
            if not changed and not (isinstance(cause, Exception) and is_damage(cause)):
                return  # a lock, a slot, descriptors, or the file itself: the next look tries again
        self._file.left_wal = False  # who uses a damaged file next is told what is wrong

    async def ready(self) -> None:
        """Return when the file is open.

        Raises UnknownTopicError once the log is closed, PartitionUnavailableError if its file is gone: what
        would be read from it vanishes with the broker.
        """
        self._check_open()
        self.life.check_place()
        if not self._file.is_open:
            wait_ms = self._shared.settings.busy_wait_ms_max
            try:
                async with asyncio.timeout(wait_ms / 1_000):
                    while not self._file.is_open:
                        await self.life.opened()
                        self._check_open()
            except TimeoutError:
                self._check_open()
                raise self._cannot_open() from None
        self.life.used()

    def _cannot_open(self) -> PartitionUnavailableError:
        return PartitionUnavailableError(
            f"topic {self.topic!r} partition {self.partition} cannot be opened now: as many others as "
            f"storage.open_partitions_max allows ({self._shared.settings.open_partitions_max}) are in use",
            topic=self.topic,
            partition=self.partition,
        )

    def _check_open(self) -> None:
        if self.closed:
            raise self._closed_by or UnknownTopicError(self.topic)
