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
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import apsw
import structlog

from takhin.disk import statements as sql
from takhin.disk.faults import is_clean, is_full, outcome_unknown, unavailable
from takhin.disk.witness import Mark, Slot
from takhin.errors import StartupError
from takhin.model import Appended, Batch
from takhin.settings import StorageSettings
from takhin.storage.sqlite.admission import QueueBytes
from takhin.storage.sqlite.checkpoint import Checkpoints
from takhin.storage.sqlite.group import Change, Group, Tail, Written
from takhin.storage.sqlite.open_files import PartitionFile
from takhin.storage.sqlite.recovery import Recovery, may_recover
from takhin.storage.sqlite.space import DiskSpace
from takhin.storage.sqlite.threads import Committer
from takhin.storage.sqlite.troubles import Troubles

log = structlog.get_logger()

BUSY_RETRY_SECONDS = 0.005
CUT_SECONDS_MAX = 1.0
ROOM_RETRY_SECONDS = 0.1
"""How long a trim waits for the room that is about to be made."""

COMPANY_MIN = 4
SMALL_GROUP_BYTES = 32 << 10
"""A group of at least as many batches, together at most as large, is followed by a wait for more of them:
one COMMIT costs the processors as much as ten such batches, while a producer that waits alone, or sends
large batches, would gain nothing by it."""


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
        witness: Slot,
        space: DiskSpace,
        troubles: Troubles,
        settings: StorageSettings,
        committed: Callable[[], None],
    ) -> None:
        """committed: called on the loop after each group, when `tail` has moved."""
        self.tail = tail
        self._file = file
        self._committer = committer
        self._queue = queue
        self._witness = witness
        self._space = space
        self._troubles = troubles
        self._name = f"{tail.topic}/{tail.partition}"
        self._recovery = Recovery(
            file,
            tail,
            thread=committer,
            wait_ms=settings.recover_wait_ms,
            begin=self._begin_recovery,
            counted=self._note,
            ended=self._recovery_ended,
        )
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
        self._idle = asyncio.Event()
        self._idle.set()
        self._checkpoints = Checkpoints(
            file,
            thread=checkpointer,
            pages_max=settings.checkpoint_pages,
            paused=lambda: file.held or space.full or self.failed,
            begun=self._idle.clear,
            finish=self._ask_to_finish,
            ended=self._checkpoint_ended,
        )

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
        """Return when everything queued has been committed or has failed, and nothing begins by itself."""
        self._checkpoints.stop()
        self._recovery.stop()
        for trouble in ("partition_failed", "wal_large"):
            self._troubles.end(f"{trouble} {self._name}")
        if self._waiting is not None:
            self._waiting.cancel()
            self._next()
        await self.pause()

    async def pause(self) -> None:
        """Return when nothing is under way."""
        await self._idle.wait()

    @property
    def idle(self) -> bool:
        return self._idle.is_set()

    @property
    def failed(self) -> bool:
        """Whether it takes no writes, until the file's cause to fail is gone."""
        return self._failed is not None

    def held_no_longer(self) -> None:
        """The `.db` file may change again."""
        if self._failed is None:
            self._checkpoints.committed(0)

    @property
    def wal_bytes_left(self) -> int:
        """How much of the WAL is not yet in the `.db` file."""
        return self._checkpoints.bytes_left

    async def cut_wal(self) -> None:
        """Copy all of the WAL into the `.db` file and give its room back, if that is possible now."""
        if self._failed is None:
            self._checkpoints.cut()
            with suppress(TimeoutError):  # it goes on, and others need not wait for it
                await asyncio.wait_for(self.pause(), CUT_SECONDS_MAX)

    def opened(self, opened: apsw.Connection) -> None:
        """The file is open again. Raises StartupError if it is not as it was when it was closed."""
        found = Mark(*opened.execute(sql.GET_END).get)
        left = self.tail.mark
        if found != left:
            raise StartupError(
                f"{self._file.path} has been changed by another program: when it was closed its log ended at "
                f"{left.end_offset}, after {left.commits} commits, and now it ends at {found.end_offset}, "
                f"after {found.commits}"
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
        if self._finish_due:  # before another commit: it may be the last one before a hold
            self._finish_checkpoint()
            return
        if self._space.full:
            self._refuse_appends()
        if not self._open():
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
            written = group.write(self.tail, self._file.writer, producers_max=self._settings.producers_max)
        except Exception as error:  # noqa: BLE001  a fault in one group must not stop the partition
            self._fail_group(group, error)
            return

        def done(error: Exception | None) -> None:
            if error is None:
                self._committed(group, written)
            else:
                self._fail_group(group, error, committing=True)

        self._committer.submit(partial(self._commit, written.mark), done)

    def _open(self) -> bool:
        """Whether something waits to be written and the file is open; else the rest is seen to."""
        try:
            if self._appends or self._changes:
                return self._file.ready(self._begin)
            self._next()
        except apsw.BusyError as error:
            self._retry_or_fail(error)
        except (apsw.Error, StartupError, OSError) as error:  # it could not be opened, so nothing was touched
            self._fail_waiting(unavailable(error, self.tail.topic, self.tail.partition))
            self._next()
        return False

    def _commit(self, mark: Mark) -> None:  # on a committer thread
        self._file.writer.execute(sql.COMMIT)
        self._note(mark)

    def _note(self, mark: Mark) -> None:
        try:
            self._witness.note(mark)
        except OSError as error:  # it lags then, which it may
            log.warning("witness_failed", path=str(self._file.path), error=str(error))

    def _take(self) -> Group:
        return Group.of(self._appends, self._changes, self._settings)

    def _committed(self, group: Group, written: Written) -> None:
        """The group is durable: move the end and answer everyone, in one turn of the loop."""
        self._queue.remove(group.queued_bytes)
        moved = self.tail.move(written)
        group.answer(written)
        if moved:
            self._on_committed()
        pages = self._file.writer.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)[0]
        self._checkpoints.committed(pages)
        self._watch_wal()
        self._after(group)

    def _watch_wal(self) -> None:
        left, name = self._checkpoints.bytes_left, f"wal_large {self._name}"
        if left <= self._settings.wal_bytes_max:
            self._troubles.end(name)
            return
        cause = "DATA/hold is there" if self._file.held else "a program reads it in a transaction kept open"
        self._troubles.begin(
            name,
            f"{left} bytes of the write-ahead log of {self._file.path} cannot be copied into it: {cause}",
        )

    def _finish_checkpoint(self) -> None:
        """Between two groups: a checkpoint's last bit, by the connection that nobody else uses now."""
        self._finish_due = False
        self._committer.submit(self._checkpoints.last_bit, self._checkpoint_finished)

    def _checkpoint_finished(self, error: Exception | None) -> None:
        self._checkpoints.finished(error)
        self._next()

    def _ask_to_finish(self) -> None:
        self._finish_due = True
        if not self._busy:
            self._busy = True
            self._finish_checkpoint()

    def _checkpoint_ended(self, error: Exception | None) -> None:
        if error is not None and is_full(error):
            self._space.ran_out()
        elif error is not None and not is_clean(error):
            self._fail_closed(error)
        self._watch_wal()
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
        of_sqlite = [each for each in errors if isinstance(each, apsw.Error)]
        unclean = [each for each in of_sqlite if not is_clean(each, committing=committing)]
        wait_seconds = 0.0
        if is_full(error) and self._space.ran_out() and not unclean and group.changes:
            self._changes.extendleft(reversed(group.changes))
            group = Group(group.appends, (), group.queued_bytes)
            wait_seconds = ROOM_RETRY_SECONDS
        if unclean and committing:
            group.fail(outcome_unknown(unclean[0], self.tail.topic, self.tail.partition))
        elif isinstance(error, apsw.Error):
            group.fail(unavailable(error, self.tail.topic, self.tail.partition))
        else:
            group.fail(error)
        if unclean:
            self._fail_closed(unclean[0])
        # Not at once: a full disk may fail one group after the other.
        self._loop.call_later(wait_seconds, self._next)

    def _fail_closed(self, error: Exception) -> None:
        """What is on disk is no longer certain: accept no write until the file is opened again."""
        if self._failed is not None:
            return
        self._failed = error
        self._file.failed()
        told = unavailable(error, self.tail.topic, self.tail.partition)
        self._troubles.begin(f"partition_failed {self._name}", str(told))
        self._fail_waiting(told)
        if may_recover(error):
            self._recovery.later()

    def _begin_recovery(self) -> bool:
        if self._busy or self._checkpoints.running:
            return False
        self._busy = True
        self._idle.clear()
        return True

    def _recovery_ended(self, error: Exception | None) -> None:
        if error is None:
            self._failed = None
            self._troubles.end(f"partition_failed {self._name}")
        elif isinstance(error, StartupError):  # it is another log than it was
            self._failed = error
        self._next()

    def _refuse_appends(self) -> None:
        refused = Group(list(self._appends), (), sum(batch.queued_bytes for batch, _ in self._appends))
        self._appends.clear()
        self._queue.remove(refused.queued_bytes)
        refused.fail(self._space.error())

    def _fail_waiting(self, error: Exception) -> None:
        while self._appends or self._changes:
            waiting = self._take()
            self._queue.remove(waiting.queued_bytes)
            waiting.fail(error)
