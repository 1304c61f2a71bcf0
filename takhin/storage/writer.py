"""Group commit: whatever waits for one partition becomes one transaction and one fsync.

The writer uses the file's writing connection and owns the log's end. It lives on the event loop; only COMMIT
and checkpoints run on a committer thread, and while one does, nobody else touches the connection:

    append ──► queue ──► begin (loop: BEGIN, INSERT …) ──► COMMIT (thread) ──► committed (loop) ──► begin …

A batch that arrives during a COMMIT waits for the next group, which is how groups grow under load. Many small
requests arrive faster than they are worth a COMMIT each: then the next group waits a moment for company.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import apsw

from takhin.errors import StartupError
from takhin.model import Appended, Batch
from takhin.settings import StorageSettings
from takhin.storage import statements as sql
from takhin.storage.checkpoint import Checkpoints
from takhin.storage.committer import Committer
from takhin.storage.faults import CLEAN, outcome_unknown, unavailable
from takhin.storage.files import PartitionFile
from takhin.storage.queue import QueueBytes

BUSY_RETRY_SECONDS = 0.005

TIME_INDEX_RECORDS = 1_024
"""Records between two rows of the time index: a row in every commit would cost it a page more."""

COMPANY_MIN = 4
SMALL_GROUP_BYTES = 32 << 10
"""A group of at least as many batches, together at most as large, is followed by a wait for more of them:
one COMMIT costs the processors as much as ten such batches, while a producer that waits alone, or sends
large batches, would gain nothing by it."""

Change = Callable[[apsw.Connection], None]
"""What a write other than an append does inside the transaction. It runs after the group's appends."""


@dataclass(slots=True)
class Tail:
    """The end of a log as its commits have made it."""

    topic: str
    partition: int
    end_offset: int
    highest_timestamp: int
    """Of all records below the end, or higher; -1 where there have been none."""
    indexed_offset: int
    """Of the last row of the time index; 0 where there is none."""

    def times_due(self) -> bool:
        """True when as many records have come since the last row of the time index as one row is for."""
        return self.end_offset - self.indexed_offset >= TIME_INDEX_RECORDS


@dataclass(frozen=True, slots=True)
class Written:
    """What a group's COMMIT makes true. answers: one for each append, in order."""

    answers: Sequence[Appended]
    highest_timestamp: int
    indexed_offset: int


@dataclass(frozen=True, slots=True)
class Group:
    """The writes of one transaction, each with the future of the one who waits for it."""

    appends: Sequence[tuple[Batch, asyncio.Future[Appended]]]
    changes: Sequence[tuple[Change, asyncio.Future[None]]]
    queued_bytes: int

    def fail(self, error: Exception) -> None:
        for _, future in chain[tuple[Any, asyncio.Future[Any]]](self.appends, self.changes):
            if not future.done():  # the one who waited may have gone
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more: not worth a warning


class Writer:
    """Commits one partition's writes, group by group."""

    def __init__(
        self,
        file: PartitionFile,
        tail: Tail,
        *,
        committer: Committer,
        checkpointer: Committer,
        queue: QueueBytes,
        settings: StorageSettings,
        committed: Callable[[], None],
    ) -> None:
        """committed: called on the loop after each group, when `tail` has moved."""
        self.tail = tail
        self._file = file
        self._committer = committer
        self._queue = queue
        self._settings = settings
        self._on_committed = committed
        self._loop = asyncio.get_running_loop()
        self._appends: deque[tuple[Batch, asyncio.Future[Appended]]] = deque()
        self._changes: deque[tuple[Change, asyncio.Future[None]]] = deque()
        self._busy = False  # a group, a checkpoint's last bit or a retry is under way
        self._locked_since: float | None = None
        self._failed: Exception | None = None
        self._finish_due = False
        self._waiting: asyncio.TimerHandle | None = None  # for company
        self._checkpoints = Checkpoints(
            file,
            thread=checkpointer,
            pages_max=settings.checkpoint_pages,
            finish=self._ask_to_finish,
            ended=self._checkpoint_ended,
        )
        self._idle = asyncio.Event()
        self._idle.set()

    def append(self, batch: Batch) -> asyncio.Future[Appended]:
        """Queue a batch; the future resolves when it is durable. Raises PartitionUnavailableError."""
        self._check_failed()
        future: asyncio.Future[Appended] = self._loop.create_future()
        self._appends.append((batch, future))
        self._queue.add(batch.queued_bytes)
        self._wake()
        return future

    def change(self, change: Change) -> asyncio.Future[None]:
        """Queue any other write; the future resolves when it is durable. Raises as `append` does."""
        self._check_failed()
        future: asyncio.Future[None] = self._loop.create_future()
        self._changes.append((change, future))
        self._wake()
        return future

    async def drain(self) -> None:
        """Return when everything queued has been committed or has failed."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._next()
        await self._idle.wait()

    @property
    def idle(self) -> bool:
        return self._idle.is_set()

    def opened(self, connection: apsw.Connection) -> None:
        """The file is open again. Raises StartupError if it is not as it was when it was closed."""
        end = connection.execute(sql.GET_END).get
        if end != self.tail.end_offset:
            raise StartupError(
                f"{self._file.path} has been changed by another program: its log ended at "
                f"{self.tail.end_offset} when it was closed, and now ends at {end}"
            )
        self._checkpoints.begin_anew()

    def _check_failed(self) -> None:
        if self._failed is not None:
            raise unavailable(self._failed, self.tail.topic, self.tail.partition)

    def _wake(self) -> None:
        if not self._busy:
            self._busy = True
            self._idle.clear()
            # Not at once: whatever else this turn of the loop brings joins the group.
            self._loop.call_soon(self._begin)

    def _after(self, group: Group) -> None:
        """Go on with the next group: at once, or after the wait for company."""
        small = len(group.appends) >= COMPANY_MIN and group.queued_bytes <= SMALL_GROUP_BYTES
        if small and not self._file.wanted:
            self._waiting = self._loop.call_later(self._settings.group_wait_ms / 1_000, self._next)
        else:
            self._next()

    def _next(self) -> None:
        self._waiting = None
        if self._finish_due:
            self._finish_checkpoint()
        elif self._appends or self._changes:
            if self._file.wanted and not self._checkpoints.running:
                self._file.give_way()  # after each group, else those who wait for a file would do so for ever
            self._begin()
        else:
            self._busy = False
            self._settle()

    def _settle(self) -> None:
        if not self._busy and not self._checkpoints.running:
            self._idle.set()
            self._file.became_idle()

    def _begin(self) -> None:
        """Open a transaction, write the group into it, and hand its COMMIT to a thread."""
        try:
            if not self._file.ready(self._begin):
                return
        except apsw.BusyError as error:
            self._retry_or_fail(error)
            return
        except (apsw.Error, StartupError, OSError) as error:  # it could not be opened, so nothing was touched
            self._fail_waiting(unavailable(error, self.tail.topic, self.tail.partition))
            self._next()
            return
        try:
            self._file.writer.execute(sql.BEGIN)
        except apsw.BusyError as error:
            self._retry_or_fail(error)
            return
        except apsw.Error as error:
            self._fail_group(self._take(), error)
            return
        self._locked_since = None
        group = self._take()
        try:
            written = self._write(group)
        except Exception as error:  # noqa: BLE001  a fault in one group must not stop the partition
            self._fail_group(group, error)
            return

        def done(error: Exception | None) -> None:
            if error is None:
                self._committed(group, written)
            else:
                self._fail_group(group, error, committing=True)

        self._committer.submit(self._commit, done)

    def _commit(self) -> None:  # on a committer thread
        self._file.writer.execute(sql.COMMIT)

    def _take(self) -> Group:
        """The next group: all that waits, within the limits, but at least one batch."""
        appends: list[tuple[Batch, asyncio.Future[Appended]]] = []
        records = queued_bytes = 0
        while self._appends:
            batch = self._appends[0][0]
            records += len(batch)
            if appends and (
                records > self._settings.commit_group_records_max
                or queued_bytes + batch.queued_bytes > self._settings.commit_group_bytes_max
            ):
                break
            queued_bytes += batch.queued_bytes
            appends.append(self._appends.popleft())
        changes = list(self._changes)
        self._changes.clear()
        return Group(appends, changes, queued_bytes)

    def _write(self, group: Group) -> Written:
        """Write the group into the open transaction."""
        tail = self.tail
        first = end = tail.end_offset
        highest, indexed = tail.highest_timestamp, tail.indexed_offset
        columns: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        headers: list[tuple[int, int, str, bytes]] = []
        answers = []
        for batch, _ in group.appends:
            columns[0].extend(batch.timestamps)
            columns[1].extend(batch.keys)
            columns[2].extend(batch.values)
            for position, of_record in batch.headers.items():
                headers += ((end + position, i, *header) for i, header in enumerate(of_record))
            answers.append(Appended(tail.partition, end, batch.timestamps[0], len(batch)))
            end += len(batch)
        if end > first:
            self._insert(first, end, columns)
            if headers:
                self._file.writer.executemany(sql.INSERT_HEADER, headers)
            if tail.times_due():
                indexed = first
                self._file.writer.execute(sql.PUT_TIME, (highest, first))
            self._file.writer.execute(sql.SET_END, (end,))
            highest = max(highest, *columns[0])
        for change, _ in group.changes:
            change(self._file.writer)
        return Written(answers, highest, indexed)

    def _insert(self, first: int, end: int, columns: tuple[list[Any], list[Any], list[Any]]) -> None:
        rows = end - first
        flat: list[Any] = [None] * (3 * rows)
        flat[0::3], flat[1::3], flat[2::3] = columns
        at = 0
        while at < rows:
            size = min(sql.ROWS_PER_STATEMENT_MAX, 1 << ((rows - at).bit_length() - 1))
            self._file.writer.execute(sql.insert_records(size), [first + at, *flat[3 * at : 3 * (at + size)]])
            at += size

    def _committed(self, group: Group, written: Written) -> None:
        """The group is durable: move the end and answer everyone, in one turn of the loop."""
        self._queue.remove(group.queued_bytes)
        self.tail.highest_timestamp = written.highest_timestamp
        self.tail.indexed_offset = written.indexed_offset
        self.tail.end_offset += sum(answer.record_count for answer in written.answers)
        for (_, appended), answer in zip(group.appends, written.answers, strict=True):
            if not appended.done():  # the one who waited may have gone
                appended.set_result(answer)
        for _, changed in group.changes:
            if not changed.done():
                changed.set_result(None)
        if written.answers:
            self._on_committed()
        self._checkpoints.committed(self._file.writer.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)[0])
        self._after(group)

    def _finish_checkpoint(self) -> None:
        """Between two groups: a checkpoint's last bit, by the connection that nobody else uses now."""
        self._finish_due = False
        self._committer.submit(self._run_checkpoint, self._checkpoint_finished)

    def _run_checkpoint(self) -> None:  # on a committer thread
        self._file.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _checkpoint_finished(self, error: Exception | None) -> None:
        self._checkpoints.finished(error)
        self._next()

    def _ask_to_finish(self) -> None:
        self._finish_due = True
        if not self._busy:
            self._busy = True
            self._finish_checkpoint()

    def _checkpoint_ended(self, error: Exception | None) -> None:
        if error is not None and not isinstance(error, CLEAN):
            self._fail_closed(error)
        self._settle()

    def _retry_or_fail(self, error: apsw.BusyError) -> None:
        """Another process holds the write lock: try again for a bounded time, in everyone else's favour."""
        now = self._loop.time()
        if self._locked_since is None:
            self._locked_since = now
        if now - self._locked_since < self._settings.busy_wait_ms_max / 1_000:
            self._loop.call_later(BUSY_RETRY_SECONDS, self._begin)
        else:
            self._locked_since = None
            self._fail_waiting(unavailable(error, self.tail.topic, self.tail.partition))
            self._next()

    def _fail_group(self, group: Group, error: Exception, *, committing: bool = False) -> None:
        """The group is not acknowledged: undo it, tell everyone, and go on where that is safe."""
        self._queue.remove(group.queued_bytes)
        errors = [error]
        try:
            if self._file.writer.in_transaction:
                self._file.writer.execute(sql.ROLLBACK)
        except apsw.Error as rollback_error:
            errors.append(rollback_error)
        unclean = [each for each in errors if isinstance(each, apsw.Error) and not isinstance(each, CLEAN)]
        if unclean and committing:
            group.fail(outcome_unknown(unclean[0], self.tail.topic, self.tail.partition))
        elif isinstance(error, apsw.Error):
            group.fail(unavailable(error, self.tail.topic, self.tail.partition))
        else:
            group.fail(error)
        if unclean:
            self._fail_closed(unclean[0])
        self._loop.call_soon(self._next)  # not at once: a full disk may fail one group after the other

    def _fail_closed(self, error: Exception) -> None:
        """What is on disk is no longer certain: accept no write until the file is opened again."""
        self._failed = error
        self._file.failed()
        self._fail_waiting(unavailable(error, self.tail.topic, self.tail.partition))

    def _fail_waiting(self, error: Exception) -> None:
        while self._appends or self._changes:
            waiting = self._take()
            self._queue.remove(waiting.queued_bytes)
            waiting.fail(error)
