"""How one partition is compacted: keys are read beside the commits, then records are removed between them.

What a pass removes is decided in storage/compaction.py. The pass is a row in the file, so it goes on after a
crash. Reading runs on the checkpoint thread, a slice at a time (key_map.py). Each removal is a write like
any other, in the next commit group. Where records arrive meanwhile, the pass rests in between.
It waits while the files are held, or a disk is full. If the file fails, the pass stops; the next call
continues it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Protocol, TypeVar

import structlog

from takhin.disk import statements_compaction as sql
from takhin.disk.faults import NotNowError
from takhin.disk.zero_tails import check_offset
from takhin.errors import StorageFullError
from takhin.model import INT64_MAX, OffsetAtTime, TopicConfig
from takhin.storage.compaction import Bounds, Pass, is_due, plan
from takhin.storage.sqlite.file import LogFile
from takhin.storage.sqlite.group import LogState, Write
from takhin.storage.sqlite.key_map import KeyMap, KeyMapLostError, RemovalStep
from takhin.storage.sqlite.life import Life
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.threads import DiskThreads
from takhin.storage.sqlite.troubles import Troubles
from takhin.storage.sqlite.writes_compaction import BeginPass, EndPass, RemoveRecords
from takhin.turns import others_turn

logger = structlog.get_logger()

T = TypeVar("T")

QUIET_SECONDS = 0.1
"""How long no record must have come before a pass takes all that there is to have."""
AGAIN_SECONDS = 0.1
AGAIN_SECONDS_MAX = 10.0
"""The pause before something is tried again that was in the way: a hold, a full disk, a lock. It grows where
each attempt costs something."""
TOLD_AFTER_SECONDS = 1.0
"""How long something is in the way before it is a trouble."""
TURN_SECONDS = 0.002
"""How long records are checked before others have their turn."""
REST_SECONDS = 0.004
REST_SHARE = 1.0
"""The rest after a removal, and after a slice as a share of its time, where records arrive meanwhile.
Measured (bench/compaction.py)."""


class EndedError(Exception):
    """The pass that runs is not wanted any more."""


class Log(Protocol):
    """The partition."""

    @property
    def closed(self) -> bool:
        """As in the contract."""

    async def ready(self) -> None:
        """Return when the file is open. Raises what `read` raises."""

    async def offset_for_time(self, timestamp: int) -> OffsetAtTime:
        """As in the contract."""


class Compactor:
    """Compacts one partition, one pass at a time. Lives on the loop."""

    def __init__(self, shared: Shared, file: LogFile, state: LogState, life: Life, log: Log) -> None:
        self._shared = shared
        self._file = file
        self._state = state
        self._life = life
        self._log = log
        self._one = asyncio.Lock()
        self._name = f"{state.topic}/{state.partition}"
        self._trouble = f"compaction_waits {self._name}"
        self._end_seen = 0
        self._quiet_from = 0.0
        self._ends = 0
        self._goes_on_until = 0  # what `_ends` was when the pass was asked for
        self._removed = 0  # by the pass that runs
        self._oldest: tuple[int, int | None] = (-1, None)

    async def is_due(self, config: TopicConfig, now: int) -> bool:
        """True if a pass should begin, or go on, by itself. Opens a closed file only if that may be so."""
        state, history = self._state, self._state.history
        whole = Bounds(state.start_offset, state.last_group, state.end_offset, state.end_offset)
        new = history.dirty(whole) > 0 or history.unread(whole)
        ages = config.max_compaction_lag_ms < INT64_MAX and new
        oldest = await self._oldest_dirty() if ages else None
        due = is_due(history, whole, config, now, oldest)
        if not due or not config.min_compaction_lag_ms:
            return due
        return is_due(history, await self._bounds(config, now), config, now, oldest)

    async def _oldest_dirty(self) -> int | None:
        """The timestamp of the first record that no pass has seen."""
        first = max(self._state.history.gaps.compacted_below, self._state.start_offset)
        if self._oldest[0] != first or self._oldest[1] is None:
            await self._log.ready()
            found = self._file.reader.execute(sql.TIMESTAMP_FROM, (first, self._state.end_offset)).get
            self._oldest = first, found
        return self._oldest[1]

    def end(self) -> None:
        """End the pass that is under way, and those that wait: the topic is not compacted any more.

        What is in the next commit group is removed all the same.
        """
        self._ends += 1

    async def run(self, config: TopicConfig, now: int) -> int:
        """Finish the pass that is under way, or do one now. Returns how many records it has removed."""
        ends = self._ends
        async with self._one:
            self._goes_on_until = ends
            self._removed = 0
            try:
                await self._run(config, now)
            except EndedError:
                logger.info("compaction_stopped", partition=self._name, removed=self._removed)
            finally:
                self._shared.troubles.end(self._trouble)
            return self._removed

    async def _run(self, config: TopicConfig, now: int) -> None:
        await self._may_go_on()
        await self._log.ready()
        planned = self._state.history.under_way
        if planned is None:
            planned = plan(await self._bounds(config, now), self._state.history, config, now)
        if planned is None:
            return
        began = perf_counter()
        (begun,) = await self._write(BeginPass(planned))
        logger.info("compaction_began", partition=self._name, end_offset=begun.end_offset)
        await self._finish(begun)
        took_ms = round((perf_counter() - began) * 1_000)
        logger.info("compaction_ended", partition=self._name, removed=self._removed, took_ms=took_ms)

    async def _finish(self, begun: Pass) -> None:
        """Do what is left of a pass. With another key map once more, if one is lost: see KeyMapLostError."""
        waits = Waits(self._shared.troubles, self._trouble)
        while True:
            cache_kib = self._shared.settings.compaction_bytes_max >> 10
            key_map = KeyMap(self._file.path, cache_kib=cache_kib)
            try:
                return await self._pass(key_map, self._state.history.under_way or begun, waits)
            except KeyMapLostError as error:
                lost = error
            finally:  # behind whatever of it still runs on the thread
                self._shared.threads.checkpoint.submit(key_map.close, lambda _result, _error: None)
            await waits.once(
                f"the compaction of {self._name} waits: its keys take more memory than "
                f"storage.compaction_bytes_max, and in the temporary folder (TMPDIR): {lost}"
            )

    async def _pass(self, key_map: KeyMap, begun: Pass, waits: Waits) -> None:
        below = begun.read_to
        while below > self._state.start_offset:
            below = await self._note(key_map, below)
        tombstones, lowest_tombstone = await self._keep(key_map, begun)
        waits.end()
        at = begun.next_offset
        while at < begun.end_offset:
            first = max(at, self._state.start_offset)
            at, steps = await self._beside(partial(key_map.removable, first, begun.end_offset))
            await self._remove(steps)
        await self._write(EndPass(tombstones, lowest_tombstone))

    async def _note(self, key_map: KeyMap, below: int) -> int:
        noted = await self._beside(partial(key_map.note, self._state.start_offset, below))
        began = perf_counter()
        for offset in noted.long:
            await self._log.ready()
            check_offset(self._file.reader, offset)
            if perf_counter() - began > TURN_SECONDS:
                await others_turn()
                began = perf_counter()
        return noted.first

    async def _keep(self, key_map: KeyMap, begun: Pass) -> tuple[int, int | None]:
        """Choose what is kept. Returns (how many tombstones are among that, the offset of the first one)."""
        key: bytes | None = b""
        tombstones, lowest = 0, INT64_MAX
        while key is not None:
            key, more, first = await self._beside(partial(key_map.keep, begun, key))
            tombstones += more
            lowest = lowest if first is None else min(lowest, first)
        return tombstones, lowest if tombstones else None

    async def _remove(self, steps: Sequence[RemovalStep]) -> None:
        """Remove these records, in one commit group while nobody produces. Each step has its turn."""
        while steps:
            few = steps if self._quiet else steps[:1]
            self._removed += sum(await self._write(*(RemoveRecords(*step) for step in few)))
            steps = steps[len(few) :]

    # What stands in the file, and in the way

    async def _bounds(self, config: TopicConfig, now: int) -> Bounds:
        state, young = self._state, self._state.end_offset
        if config.min_compaction_lag_ms:
            young = (await self._log.offset_for_time(now - config.min_compaction_lag_ms + 1)).offset
        return Bounds(state.start_offset, state.last_group, young, state.end_offset)

    @property
    def _in_the_way(self) -> bool:
        held, full = self._shared.files.held, self._shared.space.full
        return (held or full) and not self._log.closed

    async def _may_go_on(self) -> None:
        """Return when nothing is in the way, or the file's life ends. Raises EndedError."""
        self._check_wanted()
        while self._in_the_way:  # files, a disk and a lock tell nobody when they change
            await asyncio.sleep(AGAIN_SECONDS)
            self._check_wanted()

    def _check_wanted(self) -> None:
        if self._goes_on_until != self._ends:
            raise EndedError

    async def _write(self, *writes: Write[T]) -> Sequence[T]:
        """Submit writes for one group until there is room for them on the disk. Raises EndedError."""
        while True:
            await self._may_go_on()
            try:
                await self._log.ready()
                self._check_wanted()  # in this turn of the loop: who ends it waits for what is queued
                submitted = [self._life.submit(write) for write in writes]
                answers = [await asyncio.shield(each) for each in submitted]
            except StorageFullError:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            await self._rest(REST_SECONDS)
            return answers

    async def _beside(self, work: Callable[[], T]) -> T:
        """Run a slice on the checkpoint thread while the file is open, and nothing is in the way."""
        waits = Waits(self._shared.troubles, self._trouble)

        def timed() -> tuple[T, float] | None:  # on the checkpoint thread
            began = perf_counter()
            return (work(), perf_counter() - began) if self._file.is_open else None

        while True:
            await self._may_go_on()
            await self._log.ready()
            try:
                found = await _on(self._shared.threads.checkpoint, timed)
            except NotNowError as error:
                await waits.once(f"the compaction of {self._name} waits: {error}")
                continue
            if found is not None:
                waits.end()
                await self._rest(found[1] * REST_SHARE)
                return found[0]

    @property
    def _quiet(self) -> bool:
        """True if no records have come for a while."""
        now = perf_counter()
        if self._state.end_offset != self._end_seen:
            self._end_seen = self._state.end_offset
            self._quiet_from = now + QUIET_SECONDS
        return now >= self._quiet_from

    async def _rest(self, seconds: float) -> None:
        """Give way to producers, if records are coming."""
        if not self._quiet:
            await asyncio.sleep(seconds)


class Waits:
    """The pauses before something is tried again, each twice as long as the one before, and their trouble."""

    def __init__(self, troubles: Troubles, name: str) -> None:
        self._troubles = troubles
        self._name = name
        self._since: float | None = None
        self._seconds = AGAIN_SECONDS

    async def once(self, sentence: str) -> None:
        """Wait once more. sentence: told as a trouble when it has lasted for a while."""
        now = perf_counter()
        if self._since is None:
            self._since = now
        if now - self._since >= TOLD_AFTER_SECONDS:
            self._troubles.begin(self._name, sentence)
        await asyncio.sleep(self._seconds)
        self._seconds = min(2 * self._seconds, AGAIN_SECONDS_MAX)

    def end(self) -> None:
        """It is no longer in the way, if it ever was."""
        if self._since is not None:
            self._since = None
            self._seconds = AGAIN_SECONDS
            self._troubles.end(self._name)


async def _on(thread: DiskThreads, work: Callable[[], T]) -> T:
    """Run work on a thread; a cancellation does not wait for it."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(result: T, error: Exception | None) -> None:
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)

    thread.submit(work, done)
    return await future
