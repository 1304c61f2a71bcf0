"""How a topic is opened: which of its partitions can be served, and why the others cannot.

Partition 0's file describes the topic. Where that cannot be read, none of the topic's partitions is served: a
key's partition depends on their number, and what a record may be on the configs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import apsw
import structlog

from takhin import topic_configs
from takhin.disk import connection, versions
from takhin.disk.faults import is_damage, sentence
from takhin.disk.folder import DataFolder
from takhin.disk.identity import read_log_row
from takhin.disk.witness import Witness
from takhin.errors import StartupError
from takhin.model import TopicConfig, TopicPartition
from takhin.settings import Settings
from takhin.storage.sqlite.offset_index import OffsetIndex
from takhin.storage.sqlite.opening import UNOPENED, Opened, glimpse, open_partition
from takhin.storage.sqlite.partition import SqlitePartition
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.unavailable import Known, UnavailablePartition

logger = structlog.get_logger()

Log = SqlitePartition | UnavailablePartition

AT_WORK = "`takhin recover` is at work on it"


@dataclass(frozen=True, slots=True)
class SqliteTopic:
    """A topic. topic_id is empty, and config the default, where no file says what they are."""

    name: str
    topic_id: str
    config: TopicConfig
    partitions: Sequence[Log]
    described: bool = True
    """False: nothing is served, because partition 0's file does not say what the topic is."""

    def with_log(self, log: Log) -> SqliteTopic:
        """The topic with another log in the place of one of its own."""
        logs = [log if each.partition == log.partition else each for each in self.partitions]
        return replace(self, partitions=tuple(logs))


class Taken(NamedTuple):
    """A partition, and what is known of its topic: an id or nothing, (partition count, config) or None."""

    log: Log
    topic_id: str
    facts: tuple[int, TopicConfig] | None


class TopicOpener:
    """Opens the topics of a folder. Lives on the loop."""

    def __init__(self, shared: Shared, folder: DataFolder, witness: Witness, index: OffsetIndex) -> None:
        self.is_copy = witness.is_copy
        self._shared = shared
        self._folder = folder
        self._witness = witness
        self._index = index

    async def opened(
        self, name: str, *, strict: bool, closed: frozenset[TopicPartition] = frozenset()
    ) -> SqliteTopic:
        """Open all partitions of a topic that can be served.

        closed: those that `takhin recover` is at work on. strict: raise StartupError if there is one that
        cannot be served. A file of a later Takhin is always refused with StartupError.
        """
        logs: list[Log] = []
        try:
            return await self._open(name, logs, closed, strict=strict)
        except (apsw.Error, KeyError, ValueError) as error:
            await close(logs)
            folder = self._folder.layout.topic(name)
            raise StartupError(
                f"{folder} cannot be opened, after {len(logs)} partitions: {sentence(error)}"
            ) from error
        except BaseException:
            await close(logs)
            raise

    async def _open(
        self, name: str, logs: list[Log], closed: frozenset[TopicPartition], *, strict: bool
    ) -> SqliteTopic:
        folder = self._folder.layout.topic(name)
        try:
            files = self._folder.files(name)
            refused = await self._refused(files, strict=strict)
        except OSError as error:
            files, refused = {}, {0: StartupError(f"{folder} cannot be read: {error.strerror}")}
        refused.update((at.partition, StartupError(AT_WORK)) for at in closed if at.topic == name)
        if 0 not in files:
            missing = StartupError(f"{folder} has no partition 0 (0.db), which describes the topic")
            refused.setdefault(0, missing)
        first, topic_id, facts = await self._taken(TopicPartition(name, 0), refused.get(0), strict=strict)
        logs.append(first)
        if facts is None:
            return self._undescribed(name, first, max(files, default=0) + 1)
        num_partitions, config = facts
        for at in (TopicPartition(name, number) for number in range(1, num_partitions)):
            if at.partition not in files:
                path = self._folder.file(*at)
                missing = StartupError(f"{path} is missing: topic {name!r} has {num_partitions} partitions")
                refused.setdefault(at.partition, missing)
            log, found_id, _ = await self._taken(at, refused.get(at.partition), strict=strict)
            logs.append(log)
            topic_id = topic_id or found_id
        if not self._shared.files.held and not closed:
            self._remove_strays(name, topic_id, num_partitions)
        return SqliteTopic(name, topic_id, config, tuple(logs))

    async def _taken(self, at: TopicPartition, refused: Exception | None, *, strict: bool) -> Taken:
        """Open a partition; unless `strict`, what cannot be served becomes an UnavailablePartition."""
        try:
            if refused is not None:
                raise refused
            opened = self.open_partition(at)
            if at.partition or opened.facts is not None:
                return Taken(opened.log, opened.topic_id, opened.facts)
            await opened.log.close()
            path = self._folder.file(*at)
            raise StartupError(f"{path} does not say what the topic {at.topic!r} is")
        except UNOPENED as error:
            if strict and str(error) != AT_WORK:
                raise
            return self.unavailable(at, error)

    async def _refused(self, files: Mapping[int, Path], *, strict: bool) -> dict[int, StartupError]:
        """Bring files of the oldest version up to date. Returns why others are refused, by number."""
        try:
            await asyncio.to_thread(versions.check, list(files.values()))
        except (StartupError, OSError):
            if strict:
                raise
        else:
            return {}
        refused = {}
        for number, path in files.items():
            try:
                await asyncio.to_thread(versions.check, [path])
            except StartupError as error:
                if versions.is_newer(error):
                    raise
                refused[number] = error
            except OSError as error:
                refused[number] = StartupError(f"{path} cannot be read: {error.strerror}")
        return refused

    def _undescribed(self, name: str, first: Log, count: int) -> SqliteTopic:
        """The topic whose partition 0 is refused and does not say what the topic is."""
        why = first.reason if isinstance(first, UnavailablePartition) else ""
        reason = StartupError(f"partition 0 describes the topic, and it is not served: {why}")
        others = [self.unavailable(TopicPartition(name, number), reason) for number in range(1, count)]
        topic_id = next((other.topic_id for other in others if other.topic_id), "")
        logs = (first, *(other.log for other in others))
        config = topic_configs.parse({}, Settings())
        return SqliteTopic(name, topic_id, config, logs, described=False)

    def open_partition(self, at: TopicPartition) -> Opened:
        """Raises UNOPENED."""
        path = self._folder.file(*at)
        return open_partition(self._shared, path, at, self._witness, self._index, is_copy=self.is_copy)

    async def again(self, log: UnavailablePartition) -> Log:
        """Try to serve a partition of a topic that is described; another refusal if that does not do."""
        at = TopicPartition(log.topic, log.partition)
        try:
            if not log.path.exists():
                raise StartupError(f"{log.path} is missing")
            await asyncio.to_thread(versions.check, [log.path])
            return self.open_partition(at).log
        except UNOPENED as error:
            return self.unavailable(at, error).log

    def unavailable(self, at: TopicPartition, error: Exception) -> Taken:
        """A partition that is not served, because of `error`, with what can be read of it all the same."""
        path = self._folder.file(*at)
        found = glimpse(path, at)
        known = found.known
        if found.topic_id:
            noted = self._witness.slot(found.topic_id, at.partition).mark
            if noted is not None:
                end = max(known.end_offset, noted.end_offset)
                known = Known(known.start_offset, end, known.incarnation_id)
        self._index.forget(at)
        self._index.note(at, found.committed)
        may_pass = not isinstance(error, StartupError | KeyError | ValueError) and not is_damage(error)
        log = UnavailablePartition(at, path, _reason(error, path, at), known, may_pass=may_pass)
        return Taken(log, found.topic_id, found.facts)

    def _remove_strays(self, name: str, topic_id: str, num_partitions: int) -> None:
        """Remove the empty partitions that a change of the topic left behind when it was interrupted."""
        for number, path in self._folder.files(name).items():
            if number < num_partitions:
                continue
            try:
                db = connection.open_writer(path)
                try:
                    row = read_log_row(db)
                finally:
                    connection.close_untouched(db, path)
            except UNOPENED as error:
                logger.warning("stray_left", path=str(path), reason=sentence(error))
                continue
            if row is not None and row.topic_id == topic_id and row.end_offset == 0:
                self._folder.remove(name, [number])
                logger.info(
                    "stray_removed", path=str(path), reason="an interrupted change of the topic made it"
                )


def _reason(error: Exception, path: Path, at: TopicPartition) -> str:
    if isinstance(error, StartupError):
        return str(error)
    if is_damage(error):
        return (
            f"{path} is damaged: {sentence(error)}. Put a copy in its place (takhin restore), or go on with "
            f"what can be read: takhin recover --topic {at.topic} --partition {at.partition}"
        )
    return f"{path} cannot be opened: {sentence(error)}"


async def close(logs: Sequence[Log]) -> None:
    """Close the logs one after the other."""
    for log in logs:
        await log.close()
