"""The life of one partition's file: what is done with it, one step at a time.

    REST ◄────── nothing is due. Left when woken: by a write, a reader, a timer, a slot, a hold that has ended
     │
     ├─► OPEN        a write or a reader needs the file, and it has a slot (open_files.py)
     ├─► GROUP       writes wait: BEGIN, INSERT … on the loop, COMMIT on a commit thread, answers (commits.py)
     ├─► LAST_BIT    the end of a checkpoint, on a commit thread: a step, because no commit may run beside it
     ├─► GIVE_WAY    the file is closed, on the checkpoint thread, so that another partition's can be opened
     ├─► RECOVER     a file whose disk has failed is tried again (recovery.py)
     └─► END         the file is closed for good

After each step `due` (steps.py) chooses the next one; it is pure. One coroutine runs them, so no two steps
ever overlap. Beside a step go only reads, on the loop, whenever the file is open, and the passes of a
checkpoint, on the checkpoint thread, by a connection of their own. While such a pass runs the file is not
closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import apsw
import structlog

from takhin.disk.faults import FileGoneError, WalDamagedError, is_damage, unavailable
from takhin.disk.witness import Slot
from takhin.errors import UnknownTopicError
from takhin.model import TopicPartition
from takhin.storage.sqlite.checkpoint import Checkpoint, Phase
from takhin.storage.sqlite.commits import Commits
from takhin.storage.sqlite.copying import Copying
from takhin.storage.sqlite.course import Course, on, woken
from takhin.storage.sqlite.file import LogFile
from takhin.storage.sqlite.group import LogState, Write, fail
from takhin.storage.sqlite.offset_index import OffsetIndex
from takhin.storage.sqlite.recovery import Failure, try_to_recover
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.steps import Facts, Step, due
from takhin.storage.waiters import Waiters

logger = structlog.get_logger()

T = TypeVar("T")

CUT_SECONDS_MAX = 1.0
"""How long the others wait for one partition to cut its WAL; it goes on after that."""
TROUBLES = ("partition_failed", "partition_gone", "wal_large", "wal_unchecked", "compaction_failed")
"""What may be wrong with one partition, and ends with it."""
STUMBLE_SECONDS = 1.0
"""The pause after a fault of our own, so that one which repeats itself holds nobody else up."""


class Life:
    """One partition's file. Lives on the loop; what runs on a thread says so."""

    def __init__(
        self, shared: Shared, file: LogFile, state: LogState, witness: Slot, offsets: OffsetIndex
    ) -> None:
        self.growth = Waiters()
        self.failure: Failure | None = None
        self.checkpoint = Checkpoint(shared.settings.checkpoint_pages)
        self.step: Step | None = Step.REST
        """None: woken, or between two steps."""
        self._shared = shared
        self._file = file
        self._state = state
        self.offsets = offsets
        self._name = f"{state.topic}/{state.partition}"
        self._commits = Commits(shared, file, state, witness)
        self._copying = Copying(shared, file, self.checkpoint, self, self._name)
        self._readers: set[asyncio.Future[None]] = set()
        self._rested = Waiters()
        self._ended: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._now = 0.0  # the loop's time as the choice of the current step has seen it
        self._reached = 0.0  # the moment of the last alarm
        self._loop = asyncio.get_running_loop()
        self._steps: dict[Step, Callable[[], Coroutine[Any, Any, None]]] = {
            Step.REST: self._rest,
            Step.OPEN: self._open,
            Step.GROUP: self._group,
            Step.LAST_BIT: self._copying.last_bit,
            Step.GIVE_WAY: self._give_way,
            Step.RECOVER: self._recover,
            Step.END: self._end,
        }
        self._course = Course(self._run())
        self._course.go_on()

    # What a partition asks of it

    def adopt(self, writer: apsw.Connection) -> None:
        """Keep the connection that opened the topic if the limit on open files allows it, else close it."""
        if self._shared.files.has_room:
            self._shared.files.ask(self)
            self._file.adopt(writer)
            self.checkpoint.reset_page_count(self._file.wal_bytes)
        else:
            self._file.leave(writer, held=self._shared.files.held)

    def submit(self, write: Write[T]) -> asyncio.Future[T]:
        """Queue a write; the future gets its answer when that is durable.

        Raises PartitionUnavailableError, UnknownTopicError.
        """
        self.check_writable()
        if self.step is Step.END:  # whoever asks had to wait since it has looked
            raise UnknownTopicError(self._state.topic)
        first = not self._commits.waiting
        future = self._commits.put(write)
        if first:  # for the others that wait nothing has changed
            self.wake()
        return future

    def check_writable(self) -> None:
        """Raises PartitionUnavailableError if the file has failed."""
        if self.failure is not None:
            raise self._unavailable(self.failure.error)

    def check_place(self) -> None:
        """Raises PartitionUnavailableError if the file is gone, replaced, or has a damaged WAL.

        An open one has failed then: what was written to it since may be lost.
        """
        try:
            if self.lost:
                self.check_writable()
            self._file.check_place()
        except (FileGoneError, WalDamagedError) as error:
            told = self._unavailable(error)
            if self._file.is_open or isinstance(error, WalDamagedError):
                self.fail_closed(error)
            else:  # nothing was written meanwhile, so it may come back
                self._shared.troubles.begin(f"partition_gone {self._name}", str(told))
            raise told from error
        self._shared.troubles.end(f"partition_gone {self._name}")

    @property
    def lost(self) -> bool:
        """True if it is known that what would be read is wrong, or may vanish with the broker."""
        return self.failure is not None and isinstance(self.failure.error, FileGoneError | WalDamagedError)

    async def opened(self) -> None:
        """Return when the file is open, or its life has ended. Raises what opening it raises."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._readers.add(waiter)
        self.wake()
        try:
            await waiter
        finally:
            self._readers.discard(waiter)
            self.wake()

    async def rested(self) -> None:
        """Return when nothing is queued or under way; at once while it ends, as nothing is accepted then."""
        if not self.at_rest and self.step is not Step.END:
            await self._rested.wait()

    async def cut_wal(self) -> None:
        """Copy all of the WAL into the `.db` file and give its space back, if that is possible now."""
        if self._may_checkpoint and self.checkpoint.phase is Phase.NONE:
            self.checkpoint.cut()
            self.wake()
            with suppress(TimeoutError):
                async with asyncio.timeout(CUT_SECONDS_MAX):
                    await self.rested()

    async def end(self) -> None:
        """Write what is queued, close the file, and return. No checkpoint or recovery begins any more."""
        if self._ended is None:
            self._ended = self._loop.create_future()
            self._commits.not_before = 0.0
            self.wake()
        await asyncio.shield(self._ended)

    def wake(self) -> None:
        """Choose again in the next turn of the loop: whatever else this turn brings joins the group."""
        if self.step is Step.REST:
            self.step = None
            if self._alarm is not None:
                self._alarm.cancel()
            self._loop.call_soon(self._course.go_on)

    def used(self) -> None:
        """The open file is used: of those at rest it is the last one to be closed for another."""
        self._shared.files.used(self)

    @property
    def failed(self) -> bool:
        """True if the file takes no writes. Also read on the checkpoint thread."""
        return self.failure is not None

    @property
    def can_close(self) -> bool:
        """True while the file is open and nobody uses it."""
        return self._file.is_open and not self._readers and self.at_rest

    @property
    def at_rest(self) -> bool:
        """True if no write waits, and neither a step nor a checkpoint is under way."""
        return self.step is Step.REST and not self._commits.waiting and self.checkpoint.phase is Phase.NONE

    async def _run(self) -> None:
        while self.step is not Step.END:
            try:
                # uvloop's clock is cached and in whole ms: an alarm's moment has come, whatever it says.
                self._now = max(self._loop.time(), self._reached)
                self._begin_checkpoint()
                self.step = due(self._facts())
                await self._steps[self.step]()
            except Exception as error:  # a fault of ours: those who wait get an answer all the same
                logger.exception("step_failed", partition=self._name, step=str(self.step))
                self.fail_closed(error)
                self.step = Step.REST
                self._alarm = self._loop.call_later(STUMBLE_SECONDS, self._course.go_on)
                await woken()

    def _facts(self) -> Facts:
        files, failure, commits = self._shared.files, self.failure, self._commits
        is_open = self._file.is_open
        if not is_open and failure is None and (commits.waiting or self._readers):
            files.ask(self)
        retry_at = None if failure is None or files.held else failure.retry_at
        return Facts(
            queued=bool(commits.waiting),
            ready=self._now >= commits.not_before,
            reading=bool(self._readers),
            is_open=is_open,
            may_open=is_open or failure is not None or files.has_slot(self),
            gives_way=files.gives_way(self),
            checkpoint=self.checkpoint.phase,
            wal_full=self.checkpoint.full,
            failed=failure is not None,
            recovers=retry_at is not None and self._now >= retry_at,
            ending=self._ended is not None,
        )

    async def _rest(self) -> None:
        """Wait to be woken, or for the next moment at which something becomes due."""
        files = self._shared.files
        if not self._commits.waiting and not self._readers and self.failure is None:
            if not self._file.is_open:
                files.withdraw(self)
                files.release(self)
            elif files.wanted and self.checkpoint.phase is Phase.NONE and files.offer(self):
                return  # the next step is to give way
        if self.at_rest:
            self._rested.wake()
        self._alarm = None
        if (moment := self._next_moment()) is not None:
            self._alarm = self._loop.call_at(moment, self._ring, moment)
        await woken()

    def _next_moment(self) -> float | None:
        """When something becomes due by itself, in the loop's time."""
        times = (
            self._commits.not_before if self._commits.waiting else None,
            self.checkpoint.again_at,
            None if self.failure is None else self.failure.retry_at,
        )
        # Later than the choice, not than now: what has become due in between would never be looked at.
        return min((at for at in times if at is not None and at > self._now), default=None)

    def _ring(self, moment: float) -> None:
        self._reached = moment
        self._course.go_on()

    # OPEN, GIVE_WAY, END

    async def _open(self) -> None:
        try:
            opened = await on(self._shared.threads.commit, partial(self._file.opened, self._state.mark))
            self._file.adopt(opened)
        except Exception as error:  # noqa: BLE001  whatever it is, nothing was touched
            self._shared.files.release(self)
            for reader in self._readers:
                fail(reader, error)
            self._readers.clear()
            if isinstance(error, apsw.BusyError) and self._commits.waiting:
                self._commits.locked(error)
            else:
                self._commits.fail_waiting(self._unavailable(error))
            return
        self.checkpoint.reset_page_count(self._file.wal_bytes)
        self.used()
        self._let_readers_go_on()

    def _let_readers_go_on(self) -> None:
        """Wake the readers. Each stays in the set, and so keeps the file open, until it has gone on."""
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)

    async def _give_way(self) -> None:
        error = await self._close()
        if error is not None and (isinstance(error, apsw.IOError | FileGoneError) or is_damage(error)):
            self.fail_closed(error)
        self._shared.files.release(self)

    async def _end(self) -> None:
        await self._close()
        self._shared.files.withdraw(self)
        self._shared.files.release(self)
        self._let_readers_go_on()
        self._rested.wake()
        for trouble in TROUBLES:
            self._shared.troubles.end(f"{trouble} {self._name}")
        if self._ended is not None:
            self._ended.set_result(None)

    async def _close(self) -> Exception | None:
        """Close the file. Returns the error, also logged, by which its WAL was not copied and stays."""
        detached = self._file.detach()

        def close() -> None:  # on the checkpoint thread
            # After a failed sync the WAL index may count pages as copied that never reached the disk.
            keep_wal = self._shared.files.held or self.failure is not None
            self._file.close(detached, keep_wal=keep_wal)

        try:
            await on(self._shared.threads.checkpoint, close)
        except Exception as error:  # noqa: BLE001  it is closed, and the WAL stays for the next start
            logger.warning("close_failed", path=str(self._file.path), error=str(error))
            self._copying.watch_check(error)
            return error
        self._copying.watch_check(None)
        return None

    # GROUP

    async def _group(self) -> None:
        landed, failed = await self._commits.group()
        if landed is not None:
            at = TopicPartition(self._state.topic, self._state.partition)
            self.offsets.note(at, landed.offsets, landed.next_times, compacted=landed.compacted)
            if landed.records:
                self.growth.wake()
            self.checkpoint.add(self._file.writer.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)[0])
            self._copying.watch_wal()
        if failed is not None:
            self.fail_closed(failed)
        if self.failure is not None:  # now, or by a checkpoint beside it: nothing may wait for another group
            self._commits.fail_waiting(self._unavailable(self.failure.error))
            return
        self.used()
        if self.checkpoint.phase is Phase.NONE and not self._readers:
            self._shared.files.offer(self)  # after each group, else those who wait would wait for ever

    # LAST_BIT, and the passes of a checkpoint beside the steps

    @property
    def _may_checkpoint(self) -> bool:
        """True if a checkpoint may begin."""
        unhindered = not self.failed and not self._shared.files.held
        return unhindered and self._file.is_open and self._ended is None

    def _begin_checkpoint(self) -> None:
        hindered = self._shared.space.full or self._shared.files.gives_way(self)
        if self.checkpoint.due(self._now) and self._may_checkpoint and not hindered:
            self._copying.begin()

    def _unavailable(self, error: Exception) -> Exception:
        return unavailable(error, self._state.topic, self._state.partition)

    def fail_closed(self, error: Exception) -> None:
        """What is on disk is no longer certain: accept no write until a recovery has gone through."""
        if self.failure is not None:
            return
        self.failure = Failure.of(error, self._next_attempt())
        if self.checkpoint.phase is Phase.LAST_BIT:
            self.checkpoint.abandon()
        self._shared.files.withdraw(self)
        self._shared.files.release(self)  # it stays open, whatever else needs opening
        if self.lost:
            self.growth.wake()  # those who wait to read have to know
            self.wake()
        told = self._unavailable(error)
        self._shared.troubles.begin(f"partition_failed {self._name}", str(told))
        self._commits.fail_waiting(told)

    def _next_attempt(self) -> float:
        return self._loop.time() + self._shared.settings.recover_wait_ms / 1_000

    async def _recover(self) -> None:
        assert self.failure is not None  # noqa: S101  the step is only for a failed file
        try:
            await try_to_recover(self._shared, self._file, self._state, self._commits)
        except Exception as error:  # noqa: BLE001  whatever it is, the file is still broken
            logger.debug("recovery_failed", partition=self._name, error=str(error))
            self.failure = self.failure.after(error, self._next_attempt())
            if self._file.is_open:  # again: those who came while it was closed wait for that
                self._let_readers_go_on()
        else:
            self.failure = None
            self._shared.troubles.end(f"partition_failed {self._name}")
