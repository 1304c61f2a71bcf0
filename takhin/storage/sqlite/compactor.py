"""How one partition is compacted: keys are read beside the commits, then records are removed between them.

What a pass removes is decided in storage/compaction.py. The pass is a row in the file, so it goes on after a
crash. Reading runs on the checkpoint thread, a slice at a time (key_map.py). Each removal is a write like
any other, in the next commit group. Where records arrive meanwhile, the pass rests in between.
It waits while the files are held or the disk is full. A file that has failed ends it: the next call goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Protocol, TypeVar

import apsw
import structlog

from takhin.disk import statements_compaction as sql
from takhin.disk.faults import sentence
from takhin.disk.zero_tails import check_offset
from takhin.errors import StorageFullError
from takhin.model import INT64_MAX, OffsetAtTime, TopicConfig
from takhin.storage.compaction import Bounds, Pass, is_due, plan
from takhin.storage.sqlite.file import LogFile
from takhin.storage.sqlite.group import LogState, Write
from takhin.storage.sqlite.key_map import KeyMap, Keys, Removable
from takhin.storage.sqlite.life import Life
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.writes_compaction import BeginPass, EndPass, RemoveRecords

logger = structlog.get_logger()

T = TypeVar("T")

AGAIN_SECONDS = 0.1
"""The pause before something is tried again that was in the way: a hold, a full disk, a lock."""
REST_SECONDS = 0.001
REST_SHARE = 0.25
"""The rest after a removal, and after a slice as a share of its time, where records arrive meanwhile.
Measured (bench/compaction.py)."""


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
        self._end_seen = 0
        self._oldest: tuple[int, int | None] = (-1, None)

    async def is_due(self, config: TopicConfig, now: int) -> bool:
        """True if a pass should begin, or go on, by itself. Opens a closed file only if that may be so."""
        state, history = self._state, self._state.history
        whole = Bounds(state.start_offset, state.last_group, state.end_offset, state.end_offset)
        ages = config.max_compaction_lag_ms < INT64_MAX and history.dirty(whole) > 0
        oldest = await self._oldest_dirty() if ages else None
        due = is_due(history, whole, config, now, oldest)
        if not due or not config.min_compaction_lag_ms:
            return due
        return is_due(history, await self._bounds(config, now), config, now, oldest)

    async def _oldest_dirty(self) -> int | None:
        """The timestamp of the first record that no pass has seen."""
        first = max(self._state.history.gaps.compacted_below, self._state.start_offset)
        if self._oldest[0] != first:
            await self._log.ready()
            found = self._file.reader.execute(sql.TIMESTAMP_FROM, (first, self._state.end_offset)).get
            self._oldest = first, found
        return self._oldest[1]

    async def run(self, config: TopicConfig, now: int) -> int:
        """Finish the pass that is under way, or do one now. Returns how many records it has removed."""
        async with self._one:
            await self._may_go_on()
            await self._log.ready()
            bounds = await self._bounds(config, now)
            history = self._state.history
            planned = history.under_way or plan(bounds, history, config, now)
            if planned is None:
                return 0
            began = perf_counter()
            begun = await self._write(BeginPass(planned))
            logger.info("compaction_began", partition=self._name, end_offset=begun.end_offset)
            cache_kib = self._shared.settings.compaction_bytes_max >> 10
            key_map = KeyMap(self._file.path, cache_kib=cache_kib)
            try:
                removed = await self._pass(begun, key_map)
            finally:  # behind whatever of it still runs on the thread
                self._shared.threads.checkpoint.submit(key_map.close, lambda _result, _error: None)
            took_ms = round((perf_counter() - began) * 1_000)
            logger.info("compaction_ended", partition=self._name, removed=removed, took_ms=took_ms)
            return removed

    async def _pass(self, begun: Pass, key_map: KeyMap) -> int:
        at = self._state.start_offset
        while at < begun.read_to:
            at = await self._note(key_map, at, begun.read_to)
        tombstones = await self._beside(lambda: key_map.finish(begun))
        removed, at = 0, begun.next_offset
        while at < begun.end_offset:
            step = await self._removable(key_map, max(at, self._state.start_offset), begun.end_offset)
            if step.kept:
                removed += await self._write(RemoveRecords(*step))
            at = step.beyond
        await self._write(EndPass(tombstones))
        return removed

    async def _note(self, key_map: KeyMap, first: int, end: int) -> int:
        def note() -> Keys:
            return key_map.note(first, end)

        noted = await self._beside(note)
        for offset in noted.long:
            await self._log.ready()
            check_offset(self._file.reader, offset)
        return noted.beyond

    async def _removable(self, key_map: KeyMap, first: int, end: int) -> Removable:
        return await self._beside(lambda: key_map.removable(first, end))

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
        """Return when nothing is in the way, or the file's life ends."""
        while self._in_the_way:  # noqa: ASYNC110  files, a disk and a lock tell nobody when they change
            await asyncio.sleep(AGAIN_SECONDS)

    async def _write(self, write: Write[T]) -> T:
        """Submit a write until there is room for it on the disk."""
        while True:
            await self._may_go_on()
            try:
                await self._log.ready()
                answer = await asyncio.shield(self._life.submit(write))
            except StorageFullError:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            await self._rest(REST_SECONDS)
            return answer

    async def _beside(self, work: Callable[[], T]) -> T:
        """Run a slice on the checkpoint thread while the file is open, and nothing is in the way."""
        loop = asyncio.get_running_loop()

        def timed() -> tuple[T, float] | None:  # on the checkpoint thread
            began = perf_counter()
            return (work(), perf_counter() - began) if self._file.is_open else None

        while True:
            await self._may_go_on()
            await self._log.ready()
            future: asyncio.Future[tuple[T, float] | None] = loop.create_future()

            def done(
                result: tuple[T, float] | None,
                error: Exception | None,
                future: asyncio.Future[tuple[T, float] | None] = future,
            ) -> None:
                if not future.done():
                    future.set_result(result) if error is None else future.set_exception(error)

            self._shared.threads.checkpoint.submit(timed, done)
            try:
                found = await future
            except (apsw.BusyError, apsw.CantOpenError, apsw.FullError) as error:
                logger.debug("compaction_waits", partition=self._name, error=sentence(error))
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            if found is not None:
                await self._rest(found[1] * REST_SHARE)
                return found[0]

    async def _rest(self, seconds: float) -> None:
        """Give way to producers, if records have come since."""
        if self._state.end_offset != self._end_seen:
            self._end_seen = self._state.end_offset
            await asyncio.sleep(seconds)
