"""The topics of an open data folder: opening, creating, altering and deleting them, durably and all at once.

A partition's life is in life.py, folders and renames in takhin/disk/folder.py.
"""

from __future__ import annotations

import asyncio
import errno
import uuid
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import apsw
import structlog

from takhin import topic_configs
from takhin.clock import Clock
from takhin.disk import connection, versions
from takhin.disk import statements as sql
from takhin.disk.faults import is_full, sentence
from takhin.disk.folder import DataFolder
from takhin.disk.identity import read_log_row
from takhin.disk.layout import partition_file, partition_number
from takhin.disk.witness import Witness
from takhin.errors import (
    OutcomeUnknownError,
    PartitionUnavailableError,
    StartupError,
    StorageFullError,
    TakhinError,
    TopicExistsError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.model import TopicConfig, TopicPartition, TopicSpec
from takhin.storage.conditions import fewer_partitions
from takhin.storage.sqlite.offset_index import OffsetIndex
from takhin.storage.sqlite.opening import Found, open_file
from takhin.storage.sqlite.partition import SqlitePartition
from takhin.storage.sqlite.shared import Shared

logger = structlog.get_logger()

T = TypeVar("T")

OPEN_AT_A_TIME = 8
"""Files that a topic's opening has open beside those that the limit counts. To give one its life takes the
loop 0.1 ms, and to close it again as long."""


@dataclass(frozen=True, slots=True)
class SqliteTopic:
    """A topic whose partitions are open."""

    name: str
    topic_id: str
    config: TopicConfig
    partitions: Sequence[SqlitePartition]


class Catalogue:
    """The topics, by name. One change at a time; lives on the loop."""

    def __init__(
        self, shared: Shared, folder: DataFolder, witness: Witness, index: OffsetIndex, *, clock: Clock
    ) -> None:
        self.topics: Mapping[str, SqliteTopic] = {}
        """A snapshot: each change puts another one in its place."""
        self.unchanging = asyncio.Lock()
        """Hold it while the catalogue must not change."""
        self._shared = shared
        self._folder = folder
        self._witness = witness
        self._index = index
        self._clock = clock
        self._changes: set[asyncio.Task[Any]] = set()

    def logs(self) -> list[SqlitePartition]:
        """Every partition of every topic."""
        return [log for topic in self.topics.values() for log in topic.partitions]

    def log(self, at: TopicPartition) -> SqlitePartition:
        """One partition. Raises UnknownTopicError, UnknownPartitionError."""
        topic = self.topics.get(at.topic)
        if topic is None:
            raise UnknownTopicError(at.topic)
        if not 0 <= at.partition < len(topic.partitions):
            raise UnknownPartitionError(at.topic, at.partition, len(topic.partitions))
        return topic.partitions[at.partition]

    async def load(self) -> None:
        """Open every topic of the folder. Raises StartupError."""
        for name in self._folder.topic_names():
            self.topics = {**self.topics, name: await self._open_topic(name)}

    async def settled(self) -> None:
        """Return when no change is under way."""
        if self._changes:
            await asyncio.wait(self._changes)

    async def close(self) -> None:
        """Close every partition. No change may be under way."""
        for topic in self.topics.values():
            await _close(topic.partitions)
        self.topics = {}

    def witness_held(self, *, held: bool) -> None:
        """Let the witness say whose it is while copies are made. Raises OSError."""
        self._witness.hold(self._folder.lock_changed() if held else 0)

    def settle_witness(self) -> None:
        """All logs are open, those of a copy under new incarnations: the witness is this folder's.

        Raises OSError.
        """
        self._witness.settle(self._folder.lock_changed() if self._shared.files.held else 0)

    async def create(self, spec: TopicSpec) -> SqliteTopic:
        """See the contract."""
        return await self._uncancelled(self._create(spec))

    async def alter(self, spec: TopicSpec) -> SqliteTopic:
        """See the contract."""
        return await self._uncancelled(self._alter(spec))

    async def delete(self, name: str) -> None:
        """See the contract."""
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
        async with self.unchanging:
            if spec.name in self.topics:
                raise TopicExistsError(spec.name)
            with _unavailable(f"topic {spec.name!r} cannot be created"):
                await asyncio.to_thread(self._build, spec)
            try:
                with _unavailable(f"topic {spec.name!r} cannot be created"):
                    topic = await self._open_topic(spec.name)
            except BaseException:  # out of file descriptors, say: what cannot be opened is not left behind
                await asyncio.to_thread(self._folder.retire, spec.name)
                raise
            self.topics = {**self.topics, spec.name: topic}
            return topic

    def _build(self, spec: TopicSpec) -> None:  # on a worker thread
        """Make the topic's files outside the catalogue, then rename their folder into it."""
        topic_id = str(uuid.uuid4())
        with self._folder.staged(spec.num_partitions) as stage:
            for partition in range(spec.num_partitions):
                self._initialise(partition_file(stage, partition), spec, partition, topic_id)
            self._folder.publish(stage, spec.name)

    def _initialise(self, path: Path, spec: TopicSpec, partition: int, topic_id: str) -> None:
        write = connection.open_writer(path)
        try:
            with write:
                identity = (spec.name, partition, topic_id, str(uuid.uuid4()))
                write.execute(sql.PUT_LOG, (*identity, 0, 0, 0, self._clock()))
                if partition == 0:
                    write.execute(sql.PUT_NUM_PARTITIONS, (spec.num_partitions,))
                    write.executemany(sql.PUT_CONFIG, topic_configs.as_texts(spec.config).items())
        finally:
            connection.close_whole(write)

    async def _alter(self, spec: TopicSpec) -> SqliteTopic:
        """Put new partitions beside the others; they count from the moment partition 0's file says so."""
        async with self.unchanging:
            former = self._existing(spec.name)
            present = len(former.partitions)
            if spec.num_partitions < present:
                raise fewer_partitions(spec, present)
            if spec.num_partitions > present:
                self._check_not_held(spec.name, "get more partitions")
            former.partitions[0].check_writable()  # it decides, so nothing is made if it cannot
            new: list[SqlitePartition] = []
            try:
                with _unavailable(f"topic {spec.name!r} cannot get more partitions"):
                    if spec.num_partitions > present:
                        await asyncio.to_thread(self._build_more, spec, former)
                    await self._open_more(spec.name, range(present, spec.num_partitions), new)
                await former.partitions[0].alter_topic(
                    spec.num_partitions, topic_configs.as_texts(spec.config)
                )
            except BaseException as error:
                await _close(new)
                if not isinstance(error, OutcomeUnknownError):  # which a crash may turn into a success
                    made = range(present, spec.num_partitions)
                    await asyncio.to_thread(self._folder.remove, spec.name, made)
                raise
            topic = SqliteTopic(spec.name, former.topic_id, spec.config, (*former.partitions, *new))
            self.topics = {**self.topics, spec.name: topic}
            return topic

    def _build_more(self, spec: TopicSpec, topic: SqliteTopic) -> None:  # on a worker thread
        present = len(topic.partitions)
        with self._folder.staged(spec.num_partitions, first=present) as stage:
            for partition in range(present, spec.num_partitions):
                self._initialise(partition_file(stage, partition), spec, partition, topic.topic_id)
            self._folder.add(stage, spec.name)

    async def _delete(self, name: str) -> None:
        async with self.unchanging:
            topic = self._existing(name)
            self._check_not_held(name, "be deleted")
            self.topics = {of: other for of, other in self.topics.items() if of != name}
            await _close(topic.partitions)
            self._index.drop(name)
            try:
                await asyncio.to_thread(self._folder.retire, name)
            except OSError:
                self.topics = {**self.topics, name: await self._open_topic(name)}
                raise
            self._witness.forget(topic.topic_id)

    def _existing(self, name: str) -> SqliteTopic:
        if name not in self.topics:
            raise UnknownTopicError(name)
        return self.topics[name]

    def _check_not_held(self, name: str, what: str) -> None:
        if self._shared.files.held:
            raise PartitionUnavailableError(
                f"topic {name!r} cannot {what} now: {self._folder.layout.hold} is there, so it is being "
                "copied",
                topic=name,
            )

    async def _open_topic(self, name: str) -> SqliteTopic:
        """Open all partitions of a topic's folder. Raises StartupError for what does not fit together."""
        logs: list[SqlitePartition] = []
        try:
            first = await asyncio.to_thread(self._open_first, name)
            logs.append(self._partition(first))
            assert first.facts is not None  # noqa: S101  `_open_first` has seen to it
            num_partitions, config = first.facts
            await self._open_more(name, range(1, num_partitions), logs)
            if not self._shared.files.held:
                await asyncio.to_thread(self._remove_strays, name, first.topic_id, num_partitions)
        except (apsw.Error, KeyError, ValueError) as error:
            await _close(logs)
            raise StartupError(
                f"{self._folder.file(name, 0).parent} cannot be opened, after {len(logs)} partitions: "
                f"{sentence(error)}"
            ) from error
        except BaseException:
            await _close(logs)
            raise
        return SqliteTopic(name, first.topic_id, config, logs)

    def _open_first(self, name: str) -> Found:  # on a worker thread
        """Open the file that describes the topic."""
        path = self._folder.file(name, 0)
        if not path.exists():
            raise StartupError(f"{path.parent} has no partition 0 (0.db), which describes the topic")
        versions.check(self._folder.files(name))
        first = self._open_file(name, 0)
        if first.facts is None:
            first.close()
            raise StartupError(f"{path} does not say what the topic {name!r} is")
        return first

    async def _open_more(self, name: str, partitions: Sequence[int], logs: list[SqlitePartition]) -> None:
        """Open partitions on a worker thread, a few at a time: only so many are open beside the limit."""
        for at in range(0, len(partitions), OPEN_AT_A_TIME):
            few = partitions[at : at + OPEN_AT_A_TIME]
            logs += map(self._partition, await asyncio.to_thread(self._open_files, name, few))

    def _open_files(self, name: str, partitions: Sequence[int]) -> list[Found]:  # on a worker thread
        found: list[Found] = []
        try:
            for partition in partitions:
                found.append(self._open_file(name, partition))  # noqa: PERF401  some may be open already
        except BaseException:
            for opened in found:
                opened.close()
            raise
        return found

    def _open_file(self, name: str, partition: int) -> Found:  # on a worker thread
        path = self._folder.file(name, partition)
        if not path.exists():
            raise StartupError(f"{path} is missing: topic {name!r} has more partitions than {partition}")
        return open_file(path, TopicPartition(name, partition), self._witness)

    def _partition(self, found: Found) -> SqlitePartition:
        return found.partition(self._shared, self._index)

    def _remove_strays(self, name: str, topic_id: str, num_partitions: int) -> None:
        """Remove the empty partitions that a change of the topic left behind when it was interrupted."""
        for path in self._folder.files(name):
            number = partition_number(path.name)
            if number is None or number < num_partitions:
                continue
            db = connection.open_writer(path)
            try:
                row = read_log_row(db)
            finally:
                connection.close_untouched(db, path)
            if row is not None and row.topic_id == topic_id and row.end_offset == 0:
                self._folder.remove(name, [number])
                logger.info(
                    "stray_removed", path=str(path), reason="an interrupted change of the topic made it"
                )


async def _close(partitions: Iterable[SqlitePartition]) -> None:
    for log in partitions:
        await log.close()


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


@contextmanager
def _unavailable(what: str) -> Iterator[None]:
    """Raise what the file system or SQLite refuses as an error that callers know, with its cause."""
    try:
        with _full_disk(what):
            yield
    except (apsw.Error, StartupError, OSError) as error:
        raise PartitionUnavailableError(f"{what}: {sentence(error)}") from error


def _unheard(change: asyncio.Task[Any]) -> None:
    """A change whose caller has gone is over. That it was refused is nobody's error."""
    error = None if change.cancelled() else change.exception()
    if error is not None and not isinstance(error, TakhinError):
        logger.error("change_failed", exc_info=error)
