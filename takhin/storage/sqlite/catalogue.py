"""The topics of an open data folder: opening, creating, altering and deleting them, durably and all at once.

A partition's life is in life.py, folders and renames in takhin/disk/folder.py.
"""

from __future__ import annotations

import asyncio
import errno
import uuid
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw
import structlog

from takhin import topic_configs
from takhin.disk import connection
from takhin.disk import statements as sql
from takhin.disk.faults import FileGoneError, is_full, quota_is_full, sentence
from takhin.disk.folder import DataFolder
from takhin.disk.layout import partition_file
from takhin.disk.repairs import Repairs
from takhin.disk.witness import Witness
from takhin.errors import (
    OutcomeUnknownError,
    PartitionUnavailableError,
    StartupError,
    StorageFullError,
    TakhinError,
    TopicExistsError,
    UnavailableError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.model import TopicPartition, TopicSpec
from takhin.storage.conditions import fewer_partitions
from takhin.storage.contract import Topic
from takhin.storage.retention import limits_of
from takhin.storage.sqlite.offset_index import OffsetIndex
from takhin.storage.sqlite.partition import SqlitePartition
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.topics import AT_WORK, Log, SqliteTopic, TopicOpener, close
from takhin.storage.sqlite.unavailable import Known, UnavailablePartition
from takhin.storage.waiters import Waiters

logger = structlog.get_logger()

T = TypeVar("T")

LOST = "folder_lost"
"""The trouble of a data folder that is no longer there, or that another broker has."""


class Catalogue:
    """The topics, by name. One change at a time; lives on the loop."""

    def __init__(self, shared: Shared, folder: DataFolder, witness: Witness, index: OffsetIndex) -> None:
        self.topics: Mapping[str, SqliteTopic] = {}
        """A snapshot: each change puts another one in its place."""
        self.repairs = Repairs(folder.layout)
        self.unchanging = asyncio.Lock()
        """Hold it while the catalogue must not change."""
        self._shared = shared
        self._folder = folder
        self._witness = witness
        self._index = index
        self._opener = TopicOpener(shared, folder, witness, index)
        self._told: dict[str, str] = {}  # the troubles of what is not served
        self._changed = Waiters()
        self._changes: set[asyncio.Task[Any]] = set()

    def logs(self) -> list[SqlitePartition]:
        """Every partition of every topic that is served."""
        return [log for log in self._all() if isinstance(log, SqlitePartition)]

    def _all(self) -> Iterator[Log]:
        return (log for topic in self.topics.values() for log in topic.partitions)

    def log(self, at: TopicPartition) -> Log:
        """One partition. Raises UnknownTopicError, UnknownPartitionError."""
        topic = self.topics.get(at.topic)
        if topic is None:
            raise UnknownTopicError(at.topic)
        if not 0 <= at.partition < len(topic.partitions):
            raise UnknownPartitionError(at.topic, at.partition, len(topic.partitions))
        return topic.partitions[at.partition]

    async def load(self) -> None:
        """Open every topic of the folder.

        What cannot be served is a trouble, or with the setting `strict` a StartupError, as is a file of a
        later Takhin in any case.
        """
        await self._uncancelled(self._load())

    async def _load(self) -> None:
        _, closed = self.repairs.wanted()
        for path in self._folder.strangers():
            logger.warning("stranger_ignored", path=str(path), reason="it belongs to no topic")
        for name in self._folder.topic_names():
            self._put(await self._opener.served(name, closed=closed, starting=True))

    async def let_go(self) -> None:
        """Close the partitions that `takhin recover` wants, and answer it. Raises OSError."""
        asked, wanted = self.repairs.wanted()
        if wanted and self._shared.files.held:
            return  # the files are being copied: they must not change
        if wanted:
            await self._uncancelled(self._let_go(wanted))
        self.repairs.answer(asked)

    async def _let_go(self, wanted: Collection[TopicPartition]) -> None:
        async with self.unchanging:
            for at in wanted:
                topic = self.topics.get(at.topic)
                if topic is None or not 0 <= at.partition < len(topic.partitions):
                    continue
                log = topic.partitions[at.partition]
                if isinstance(log, SqlitePartition):
                    missing = log.end_offset - log.start_offset - log.record_count
                    known = Known(log.start_offset, log.end_offset, log.incarnation_id, missing)
                    closed = UnavailablePartition(at, log.path, AT_WORK, known, may_pass=True)
                    self._put(topic.with_log(closed))
                    await log.close(closed.error)
                    self._witness.remember(topic.topic_id, at.partition, log.mark)

    async def take_back(self) -> None:
        """Serve what could not be served, if its file is another one now and `takhin recover` is done."""
        if not all(isinstance(log, SqlitePartition) for log in self._all()):
            await self._uncancelled(self._take_back())

    async def _take_back(self) -> None:
        async with self.unchanging:
            _, wanted = self.repairs.wanted()
            for topic in self.topics.values():
                if topic.described:
                    await self._take_back_partitions(topic, wanted)
                    continue
                first = topic.partitions[0]
                at_work = any(at.topic == topic.name for at in wanted)
                if isinstance(first, UnavailablePartition) and first.worth_a_try() and not at_work:
                    self._put(await self._opener.served(topic.name, closed=wanted))
                    await close(topic.partitions)

    async def _take_back_partitions(self, topic: SqliteTopic, wanted: Collection[TopicPartition]) -> None:
        for log in topic.partitions:
            if not isinstance(log, UnavailablePartition) or (log.topic, log.partition) in wanted:
                continue
            if log.worth_a_try():
                again = await self._opener.again(log)
                self._put(self.topics[topic.name].with_log(again))

    async def changed(self, known: object) -> None:
        """Return when `topics` is another snapshot than `known`."""
        while self.topics is known:
            await self._changed.wait()

    def _change(self, topics: Mapping[str, SqliteTopic]) -> None:
        self.topics = topics
        self._shared.sources.catalogue_changed(topics)
        self._changed.wake()

    def _put(self, topic: SqliteTopic) -> None:
        self._change({**self.topics, topic.name: topic})
        self._tell()

    def _tell(self) -> None:
        """Begin the troubles of what is not served, and end those of what is."""
        troubles = {}
        for topic in self.topics.values():
            for log in topic.partitions:
                if isinstance(log, UnavailablePartition):
                    troubles[f"not_served {topic.name}/{log.partition}"] = str(log.error)
                if not topic.described:
                    break  # the others only follow from it
        for trouble, sentence_ in troubles.items():
            if self._told.get(trouble) != sentence_:
                self._shared.troubles.begin(trouble, sentence_)
        for trouble in self._told.keys() - troubles.keys():
            self._shared.troubles.end(trouble)
        self._told = troubles

    async def settled(self) -> None:
        """Return when no change is under way."""
        if self._changes:
            await asyncio.wait(self._changes)

    async def close(self) -> None:
        """Close every partition. No change may be under way."""
        for topic in self.topics.values():
            await close(topic.partitions)
        self._change({})
        self.repairs.answer("")

    def witness_held(self, *, held: bool) -> None:
        """Let the witness say whose it is while copies are made. Raises OSError."""
        self._witness.hold(self._folder.lock_changed() if held else 0)

    def check_folder(self) -> None:
        """Put LOCK and the witness back if they are gone. Fail all logs if another broker has the folder."""
        try:
            if self._folder.keep_lock():
                self.witness_held(held=self._shared.files.held)
                logger.warning("lock_put_back", path=str(self._folder.layout.lock))
            if self._witness.keep():
                logger.warning("witness_put_back", path=str(self._folder.layout.witness))
        except StartupError as error:
            self._shared.troubles.begin(LOST, str(error))
            for log in self.logs():
                log.life.fail_closed(FileGoneError(f"{self._folder.layout.lock} was removed: {error}"))
        except OSError as error:
            self._shared.troubles.begin(LOST, f"{error.filename} cannot be put back: {error.strerror}")
        else:
            self._shared.troubles.end(LOST)

    def settle_witness(self) -> None:
        """What can be opened is open, in a copy under new incarnations: the witness is this folder's.

        Raises OSError.
        """
        self._witness.settle(self._folder.lock_changed() if self._shared.files.held else 0)

    async def create(self, spec: TopicSpec) -> SqliteTopic:
        """See the contract."""
        return await self._uncancelled(self._create(spec))

    async def alter(self, name: str, wanted: Callable[[Topic], TopicSpec]) -> SqliteTopic:
        """See the contract."""
        return await self._uncancelled(self._alter(name, wanted))

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
                    topic = await self._opener.opened(spec.name, strict=True)
            except BaseException:  # out of file descriptors, say: what cannot be opened is not left behind
                await asyncio.to_thread(self._folder.retire, spec.name)
                raise
            self._put(topic)
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
            with quota_is_full(write), write:
                identity = (spec.name, partition, topic_id, str(uuid.uuid4()))
                write.execute(sql.PUT_LOG, (*identity, 0, 0, 0, self._shared.clock()))
                if partition == 0:
                    write.execute(sql.PUT_NUM_PARTITIONS, (spec.num_partitions,))
                    write.executemany(sql.PUT_CONFIG, topic_configs.stored_texts(spec.config).items())
        finally:
            connection.close_whole(write)

    async def _alter(self, name: str, wanted: Callable[[Topic], TopicSpec]) -> SqliteTopic:
        """Put new partitions beside the others; they count from the moment partition 0's file says so."""
        async with self.unchanging:
            former = self._existing(name)
            former.partitions[0].check_writable()  # it decides, so nothing is made if it cannot
            spec = wanted(former)
            present = len(former.partitions)
            if spec.num_partitions < present:
                raise fewer_partitions(spec, present)
            if spec.num_partitions > present:
                self._check_not_held(spec.name, "get more partitions")
            new: list[SqlitePartition] = []
            try:
                with _unavailable(f"topic {spec.name!r} cannot get more partitions"):
                    if spec.num_partitions > present:
                        await asyncio.to_thread(self._build_more, spec, former)
                    await self._opener.open_more(spec.name, range(present, spec.num_partitions), new)
                await former.partitions[0].alter_topic(
                    spec.num_partitions, topic_configs.stored_texts(spec.config)
                )
            except BaseException as error:
                await close(new)
                if not isinstance(error, OutcomeUnknownError):  # which a crash may turn into a success
                    made = range(present, spec.num_partitions)
                    await asyncio.to_thread(self._folder.remove, spec.name, made)
                raise
            topic = SqliteTopic(spec.name, former.topic_id, spec.config, (*former.partitions, *new))
            self._put(topic)
            ends_compaction = former.config.compacts and not spec.config.compacts
            for log in former.partitions if ends_compaction else ():
                log.end_compaction()
            limits_change = limits_of(spec.config) != limits_of(former.config)
            if spec.config.read_only or ends_compaction or limits_change:
                await asyncio.gather(*(log.landed() for log in former.partitions))
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
            self._change({of: other for of, other in self.topics.items() if of != name})
            self._tell()
            await close(topic.partitions)
            self._index.drop(name)
            self._shared.sources.drop(name)
            self._shared.meters.drop(name)
            try:
                with _unavailable(f"topic {name!r} cannot be deleted"):
                    await asyncio.to_thread(self._folder.retire, name)
            except UnavailableError:
                self._put(await self._opener.served(name, closed=self.repairs.wanted()[1]))
                raise
            if topic.topic_id:
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
