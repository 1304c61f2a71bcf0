"""The writes of one partition, from the queue to their answers: INSERT on the loop, COMMIT on a thread.

What arrives during a COMMIT waits for the next group, which is how groups grow under load. Many small
requests arrive faster than they are worth a COMMIT each: then the next group waits a moment for more of
them. When a group may begin, and what a failed file means, is decided in life.py.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TypeVar

import apsw
import structlog

from takhin.disk import statements as sql
from takhin.disk.faults import (
    blames_write,
    is_clean,
    is_full,
    outcome_unknown,
    quota_is_full,
    unavailable,
)
from takhin.disk.witness import Mark, Slot
from takhin.logs import debugging
from takhin.model import TopicPartition
from takhin.storage.sqlite.course import on
from takhin.storage.sqlite.file import LogFile
from takhin.storage.sqlite.group import CommitGroup, LogState, Write, Written
from takhin.storage.sqlite.reader import Reader
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.write_queue import WriteQueue

logger = structlog.get_logger()

T = TypeVar("T")

BUSY_RETRY_SECONDS = 0.005
"""The pause between two attempts at BEGIN while another process has the file locked. How long they go on is
storage.busy_wait_ms_max."""
AFTER_FAILURE_SECONDS = 0.001
"""The pause after a group that failed, so that others have their turn: a full disk may fail many in a row."""
ROOM_RETRY_SECONDS = 0.1
"""The pause between two attempts at a trim while space is being made for it (see upkeep.py)."""

COMPANY_MIN = 4
SMALL_GROUP_BYTES = 32 << 10
"""After a group of at least COMPANY_MIN batches and at most SMALL_GROUP_BYTES in all, the next one waits
group_wait_ms for more: one COMMIT costs the processors as much as ten such batches, while a producer that
waits alone, or sends large batches, would gain nothing by it. Measured; the setting is the wait."""


class Commits:
    """The queue of one partition's writes, and the group that is being committed. Lives on the loop."""

    def __init__(self, shared: Shared, file: LogFile, state: LogState, witness: Slot) -> None:
        self.not_before = 0.0
        """No group begins earlier, in the loop's time: it waits for company, a lock or space."""
        self._shared = shared
        self._file = file
        self._state = state
        self._witness = witness
        self._durable_history = state.history
        self._queue = WriteQueue(shared.settings)
        self.waiting = self._queue.waiting
        """The writes that wait for their group."""
        self._locked_since: float | None = None
        self._full_since: float | None = None
        self._loop = asyncio.get_running_loop()

    def put(self, write: Write[T]) -> asyncio.Future[T]:
        """Queue a write; the future gets its answer when that is durable."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(write, future)
        self._shared.admission.add(write.queued_bytes)
        return future

    async def group(self) -> tuple[Written | None, Exception | None]:
        """Commit the next group of an open file and answer it.

        Returns (what has landed, how the file failed).
        """
        self._file.fit_page_caches(self._shared.files.cache_kib)
        if self._shared.space.full:
            self._drop(self._queue.take_appends(), self._shared.space.error())
        if not self.waiting:
            self._locked_since = None
            return None, None
        try:
            self._file.writer.execute(sql.BEGIN)
        except apsw.BusyError as error:
            self.locked(error)
            return None, None
        except apsw.Error as error:
            return None, self._failed(self._queue.take(), error)
        self._locked_since = None
        group = self._queue.take()
        try:
            with quota_is_full(self._file.writer):
                written = await group.write(self._state, self._file.writer, self._shared)
        except Exception as error:  # noqa: BLE001  a fault in one group must not stop the partition
            return None, self._failed(group, error)
        # Both at once: by them retention counts the records.
        self._state.start_offset, self._state.history = written.start_offset, written.history
        began = time.perf_counter()
        try:
            seconds = await on(self._shared.threads.commit, partial(self._commit, written.mark))
            self._file.check_sound()  # a checkpoint beside it may have found damage since
        except Exception as error:  # noqa: BLE001
            return None, self._failed(group, error, committing=True)
        self._landed(group, written)
        self._count(group, written, seconds)
        if debugging():
            logger.debug(
                "group_committed",
                partition=f"{self._state.topic}/{self._state.partition}",
                writes=len(group.writes),
                records=written.records,
                queued_bytes=group.queued_bytes,
                end_offset=written.mark.end_offset,
                took_ms=round((time.perf_counter() - began) * 1_000, 3),
            )
        return written, None

    def _commit(self, mark: Mark) -> float:  # on a commit thread
        """Returns how many seconds the COMMIT took."""
        began = time.perf_counter()
        with quota_is_full(self._file.writer):
            self._file.writer.execute(sql.COMMIT)
        seconds = time.perf_counter() - began
        self._file.check_place()  # else it would be acknowledged into a file that no start finds
        self.note(mark)
        return seconds

    def _count(self, group: CommitGroup, written: Written, seconds: float) -> None:
        meters = self._shared.meters
        meters.commit_seconds.observe(seconds)
        meters.group_records.observe(written.records)
        meters.group_bytes.observe(group.queued_bytes)
        if written.records:
            of_topic = meters.topic(self._state.topic)
            of_topic.appended_records += written.records
            of_topic.appended_bytes += written.appended_bytes

    def note(self, mark: Mark) -> None:
        """Note in the witness how far the log has come. It may lag, so an error is only logged."""
        try:
            self._witness.note(mark)
        except OSError as error:
            logger.warning("witness_failed", path=str(self._file.path), error=str(error))

    def _landed(self, group: CommitGroup, written: Written) -> None:
        """The group is durable: move the end and answer everyone, in one turn of the loop."""
        self._full_since = None
        self._shared.admission.remove(group.queued_bytes)
        self._state.landed(written)
        self._durable_history = written.history
        at = TopicPartition(self._state.topic, self._state.partition)
        self._shared.sources.note(at, written.source_groups)
        if written.removed:
            self._state.ends = Reader(self._file, self._state, native=self._shared.native).ends()
        group.answer(written)
        small = group.appends >= COMPANY_MIN and group.queued_bytes <= SMALL_GROUP_BYTES
        if small and not self._shared.files.wanted:
            self.not_before = self._loop.time() + self._shared.settings.group_wait_ms / 1_000

    def _failed(self, group: CommitGroup, error: Exception, *, committing: bool = False) -> Exception | None:
        """Undo a group that is not acknowledged, and tell everyone.

        Returns the error by which the file has failed: after it nobody knows what is on disk.
        """
        self._state.start_offset, self._state.history = self._state.durable_start, self._durable_history
        self.not_before = self._loop.time() + AFTER_FAILURE_SECONDS
        errors = [error]
        try:
            if self._file.writer.in_transaction:
                self._file.writer.execute(sql.ROLLBACK)
        except apsw.Error as rollback_error:
            errors.append(rollback_error)
        blamed = not committing and blames_write(error)
        of_file = errors[1:] if blamed else errors
        unclean = next((each for each in of_file if not is_clean(each, committing=committing)), None)
        space_soon = is_full(error) and self._shared.space.ran_out()
        if blamed and unclean is None and len(group.writes) > 1:
            self._queue.put_back(group.writes, alone=True)  # one is to blame: the others go on without it
        elif space_soon and unclean is None:
            self._wait_for_space(group, error)
        elif unclean is not None and committing:
            self._drop(group, outcome_unknown(unclean, self._state.topic, self._state.partition))
        else:
            self._drop(group, self._for_callers(error))
        return unclean

    def _wait_for_space(self, group: CommitGroup, error: Exception) -> None:
        """Refuse appends while the disk is full. Other writes are tried again: they may free space.

        For a bounded time: a file system can be full although it counts free blocks.
        """
        now = self._loop.time()
        if self._full_since is None:
            self._full_since = now
        self._queue.put_back(group.writes)
        self._drop(self._queue.take_appends(), self._for_callers(error))
        if now - self._full_since < self._shared.settings.busy_wait_ms_max / 1_000:
            self.not_before = now + ROOM_RETRY_SECONDS
        else:
            self.fail_waiting(self._for_callers(error))

    def locked(self, error: apsw.BusyError) -> None:
        """Another process has the file locked: try again for a bounded time."""
        now = self._loop.time()
        if self._locked_since is None:
            self._locked_since = now
        if now - self._locked_since < self._shared.settings.busy_wait_ms_max / 1_000:
            self.not_before = now + BUSY_RETRY_SECONDS
        else:
            self.fail_waiting(self._for_callers(error))

    def fail_waiting(self, error: Exception) -> None:
        """Give up whatever waits."""
        self._locked_since = self._full_since = None
        while self.waiting:
            self._drop(self._queue.take(), error)

    def _drop(self, group: CommitGroup, error: Exception) -> None:
        self._shared.admission.remove(group.queued_bytes)
        group.fail(error)

    def _for_callers(self, error: Exception) -> Exception:
        """What callers get for an error: SQLite's in words of theirs, any other as it is."""
        if isinstance(error, apsw.Error):
            return unavailable(error, self._state.topic, self._state.partition)
        return error
