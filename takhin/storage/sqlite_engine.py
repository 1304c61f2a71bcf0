"""The engine over SQLite: the catalogue of topics in a data folder. Fulfils the contract's Engine.

Owns opening, creating and deleting. A partition's life is in partition.py, folders and renames in
layout.py.
"""

from __future__ import annotations

import asyncio
import errno
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import apsw
import structlog

from takhin import topic_configs
from takhin.clock import Clock
from takhin.errors import (
    PartitionUnavailableError,
    StartupError,
    StorageFullError,
    TakhinError,
    TopicExistsError,
    UnknownTopicError,
)
from takhin.model import TopicConfig, TopicSpec
from takhin.settings import StorageSettings
from takhin.storage import connection, schema
from takhin.storage import statements as sql
from takhin.storage.committer import Committer
from takhin.storage.engine import EndMoved
from takhin.storage.faults import is_full, sentence
from takhin.storage.files import OpenFiles
from takhin.storage.hold import Hold
from takhin.storage.layout import DataFolder
from takhin.storage.partition import SqlitePartition
from takhin.storage.queue import QueueBytes
from takhin.storage.space import DiskSpace
from takhin.storage.troubles import Troubles
from takhin.storage.witness import Witness

log = structlog.get_logger()

T = TypeVar("T")

WATCH_SPACE_SECONDS = 0.5
WATCH_HOLD_SECONDS = 0.1

HOLD_AT_A_TIME = 64
"""Partitions that get their last commit before a hold, at one time."""


@dataclass(frozen=True, slots=True)
class SqliteTopic:
    """A topic whose partitions are open."""

    name: str
    topic_id: str
    config: TopicConfig
    partitions: Sequence[SqlitePartition]


class SqliteEngine:
    """Topics as folders, partitions as WAL-mode SQLite files."""

    def __init__(
        self, data_dir: Path, settings: StorageSettings, *, clock: Clock, end_moved: EndMoved
    ) -> None:
        self._data_dir = data_dir
        self._settings = settings
        self._clock = clock
        self._end_moved = end_moved
        self._topics: dict[str, SqliteTopic] = {}
        self._queue = QueueBytes(bytes_max=settings.queue_bytes_max, wait_ms_max=settings.queue_wait_ms_max)
        self._troubles = Troubles()
        self._catalogue = asyncio.Lock()  # one create or delete at a time
        self._changes: set[asyncio.Task[Any]] = set()

    @property
    def topics(self) -> Mapping[str, SqliteTopic]:
        return self._topics

    @property
    def troubles(self) -> Sequence[str]:
        return self._troubles.sentences

    async def open(self) -> None:
        connection.check_library()
        self._folder = DataFolder(self._data_dir)
        try:
            self._witness = Witness(
                self._folder.path / "witness", lock_changed_before=self._folder.lock_changed_before
            )
        except OSError as error:
            self._folder.close()
            raise StartupError(f"cannot use {self._folder.path / 'witness'}: {error.strerror}") from error
        loop = asyncio.get_running_loop()
        self._committer = Committer(loop, name="commit", threads=self._settings.commit_threads)
        self._checkpointer = Committer(loop, name="checkpoint", threads=1)
        self._files = OpenFiles(files_max=self._settings.open_partitions_max, closer=self._checkpointer)
        self._space = DiskSpace(
            self._folder.path, self._settings, self._troubles, quiet=self._quiet, reclaim=self._reclaim
        )
        self._hold = Hold(
            self._folder.path,
            take=self._take_hold,
            release=self._release_hold,
            age_ms_max=self._settings.hold_age_ms_max,
            troubles=self._troubles,
        )
        self._watches: list[asyncio.Task[None]] = []
        try:
            self._hold.begin(is_copy=self._witness.is_copy)
            self._files.held = self._hold.asked
            for name in self._folder.topic_names():
                self._topics[name] = await self._open_topic(name)
            self._witness.settle(self._folder.lock_changed() if self._files.held else 0)
            await self._space.look()
        except BaseException:
            await self.close()
            raise
        self._watches = [
            loop.create_task(_watch(self._space.look, WATCH_SPACE_SECONDS)),
            loop.create_task(_watch(self._hold.look, WATCH_HOLD_SECONDS)),
        ]

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        if self._changes:
            await asyncio.wait(self._changes)
        self._hold.end()
        if self._files.held and not self._hold.asked:  # removed since the last look
            self._release_hold()
        self._space.close()  # trims that wait for its room, and the last checkpoints, have it now
        for topic in self._topics.values():
            await _close(topic.partitions)
        self._topics = {}
        self._committer.close()
        self._checkpointer.close()
        self._witness.close()
        self._folder.close()

    async def room(self) -> None:
        self._space.check()
        await self._queue.room()

    async def _reclaim(self, room: Callable[[], int]) -> None:
        """Cut write-ahead logs, one after the other. room: how many bytes that may take now."""
        logs = [log for topic in self._topics.values() for log in topic.partitions]
        for log in sorted(logs, key=lambda log: log.wal_bytes_left):
            if not log.closed:
                with suppress(apsw.Error, OSError):  # a failed disk, or a damaged file, which others report
                    await log.cut_wal(room)

    async def _quiet(self) -> None:
        """Return when the checkpoint thread has done what it was given until now."""
        passed = asyncio.Event()
        self._checkpointer.submit(lambda: None, lambda _: passed.set())
        await passed.wait()

    async def _take_hold(self) -> None:
        """From now on no `.db` file changes, and no WAL is begun anew. Raises TimeoutError, OSError."""
        async with self._catalogue:
            self._files.held = True
            await self._quiet()
            logs = [log for topic in self._topics.values() for log in topic.partitions]
            for at in range(0, len(logs), HOLD_AT_A_TIME):
                await asyncio.gather(*(log.restart_wal() for log in logs[at : at + HOLD_AT_A_TIME]))
            self._witness.hold(self._folder.lock_changed())

    def _release_hold(self) -> None:
        self._files.held = False
        self._witness.hold(0)
        for topic in self._topics.values():
            for log in topic.partitions:
                log.held_no_longer()

    async def create_topic(self, spec: TopicSpec) -> SqliteTopic:
        return await self._uncancelled(self._create(spec))

    async def delete_topic(self, name: str) -> None:
        await self._uncancelled(self._delete(name))

    async def _uncancelled(self, change: Coroutine[Any, Any, T]) -> T:
        """Run a change of the catalogue to its end, also when the one who asked has gone."""
        task = asyncio.ensure_future(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_unheard)
            raise

    async def _create(self, spec: TopicSpec) -> SqliteTopic:
        async with self._catalogue:
            if spec.name in self._topics:
                raise TopicExistsError(spec.name)
            with _full_disk(f"topic {spec.name!r} cannot be created"):
                await asyncio.to_thread(self._build, spec)
            try:
                with _full_disk(f"topic {spec.name!r} cannot be created"):
                    topic = await self._open_topic(spec.name)
            except BaseException:  # out of file descriptors, say: what cannot be opened is not left behind
                await asyncio.to_thread(self._folder.retire, spec.name)
                raise
            self._topics = {**self._topics, spec.name: topic}
            return topic

    def _build(self, spec: TopicSpec) -> None:  # on a worker thread
        """Make the topic's files outside the catalogue, then rename them into it."""
        topic_id = str(uuid.uuid4())
        stage = self._folder.stage(spec.num_partitions)
        try:
            for partition in range(spec.num_partitions):
                self._initialise(stage / f"{partition}.db", spec, partition, topic_id)
            self._folder.publish(stage, spec.name)
        except BaseException:
            self._folder.discard(stage)
            raise

    def _initialise(self, path: Path, spec: TopicSpec, partition: int, topic_id: str) -> None:
        write = connection.open_writer(path)
        try:
            with write:
                identity = (spec.name, partition, topic_id, str(uuid.uuid4()), self._clock())
                write.execute(sql.PUT_LOG, identity)
                if partition == 0:
                    write.execute(sql.PUT_NUM_PARTITIONS, (spec.num_partitions,))
                    write.executemany(sql.PUT_CONFIG, topic_configs.to_stored(spec.config))
        finally:
            connection.close_whole(write)

    async def _delete(self, name: str) -> None:
        async with self._catalogue:
            if name not in self._topics:
                raise UnknownTopicError(name)
            if self._files.held:
                raise PartitionUnavailableError(
                    f"topic {name!r} cannot be deleted now: {self._folder.path / 'hold'} is there, so it is "
                    "being copied",
                    topic=name,
                )
            topic = self._topics[name]
            self._topics = {of: other for of, other in self._topics.items() if of != name}
            await _close(topic.partitions)
            try:
                await asyncio.to_thread(self._folder.retire, name)
            except OSError:
                self._topics = {**self._topics, name: await self._open_topic(name)}
                raise
            self._witness.forget(topic.topic_id)

    async def _open_topic(self, name: str) -> SqliteTopic:
        """Open all partitions of a topic's folder. Raises StartupError for what does not fit together."""
        first = self._folder.file(name, 0)
        if not first.exists():
            raise StartupError(f"{first.parent} has no partition 0 (0.db), which describes the topic")
        schema.check(self._folder.files(name))
        partitions: list[SqlitePartition] = []
        try:
            partitions.append(self._open_partition(first, name, 0))
            facts = partitions[0].topic_facts
            if facts is None:
                raise StartupError(f"{first} does not say what the topic {name!r} is")
            num_partitions, config = facts
            for partition in range(1, num_partitions):
                path = self._folder.file(name, partition)
                if not path.exists():
                    raise StartupError(f"{path} is missing: topic {name!r} has {num_partitions} partitions")
                partitions.append(self._open_partition(path, name, partition))
        except (apsw.Error, KeyError, ValueError) as error:
            await _close(partitions)
            raise StartupError(
                f"{first.parent} cannot be opened, after {len(partitions)} partitions: {sentence(error)}"
            ) from error
        except BaseException:
            await _close(partitions)
            raise
        return SqliteTopic(name, partitions[0].topic_id, config, partitions)

    def _open_partition(self, path: Path, name: str, partition: int) -> SqlitePartition:
        return SqlitePartition(
            path,
            name,
            partition,
            files=self._files,
            committer=self._committer,
            checkpointer=self._checkpointer,
            queue=self._queue,
            witness=self._witness,
            space=self._space,
            troubles=self._troubles,
            settings=self._settings,
            end_moved=self._end_moved,
        )


async def _close(partitions: Iterable[SqlitePartition]) -> None:
    for log in partitions:
        await log.close()


async def _watch(look: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Look again and again, until cancelled."""
    while True:
        try:
            await look()
        except Exception:  # the next look may do better, and there must be one
            log.exception("watch_failed", look=look.__qualname__)
        await asyncio.sleep(seconds)


@contextmanager
def _full_disk(what: str) -> Iterator[None]:
    """Raise StorageFullError where the file system or SQLite says that there is no room."""
    try:
        yield
    except (apsw.Error, StartupError) as error:
        cause = error.__cause__ if isinstance(error, StartupError) else error
        if not isinstance(cause, Exception) or not is_full(cause):
            raise
        raise StorageFullError(f"{what}: {sentence(cause)}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFullError(f"{what}: {error.strerror}") from error


def _unheard(change: asyncio.Task[Any]) -> None:
    """A change whose caller has gone is over. That it was refused is nobody's error."""
    error = None if change.cancelled() else change.exception()
    if error is not None and not isinstance(error, TakhinError):
        log.error("change_failed", exc_info=error)
