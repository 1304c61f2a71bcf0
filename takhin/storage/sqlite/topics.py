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

from takhin.disk import connection, versions
from takhin.disk.faults import NotNowError, is_damage, sentence
from takhin.disk.folder import DataFolder
from takhin.disk.identity import read_log_row
from takhin.disk.witness import Witness
from takhin.errors import StartupError
from takhin.model import TopicConfig, TopicPartition
from takhin.storage.sqlite.offset_index import OffsetIndex
from takhin.storage.sqlite.opening import UNOPENED, Found, Glimpse, glimpse, open_file
from takhin.storage.sqlite.partition import SqlitePartition
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.unavailable import Known, UnavailablePartition

logger = structlog.get_logger()

Log = SqlitePartition | UnavailablePartition

AT_WORK = "`takhin recover` is at work on it"
FOLLOWS = "partition 0 describes the topic, and it is not served: {}"


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


OPEN_AT_A_TIME = 8
"""Files that a topic's opening has open beside those that the limit counts. To give one its life takes the
loop 0.1 ms, and to close it again as long."""


class Refused(NamedTuple):
    """A file that cannot be served, why, and what can be read of it all the same."""

    at: TopicPartition
    path: Path
    error: Exception
    glimpse: Glimpse


class Taken(NamedTuple):
    """A partition, and what is known of its topic: an id or nothing, (partition count, config) or None."""

    log: Log
    topic_id: str
    facts: tuple[int, TopicConfig] | None


class TopicOpener:
    """Opens the topics of a folder. Lives on the loop."""

    def __init__(self, shared: Shared, folder: DataFolder, witness: Witness, index: OffsetIndex) -> None:
        self._shared = shared
        self._folder = folder
        self._witness = witness
        self._index = index

    async def served(
        self, name: str, *, closed: frozenset[TopicPartition], starting: bool = False
    ) -> SqliteTopic:
        """Open what can be served of a topic: of one that cannot be opened at all, nothing.

        closed: as for `opened`. starting: raise StartupError for a file of a later Takhin, and with the
        setting `strict` for whatever cannot be served.
        """
        strict = starting and self._shared.settings.strict
        try:
            return await self.opened(name, strict=strict, closed=closed)
        except Exception as error:
            if strict or (starting and versions.is_newer(error)):
                raise
            _note_unforeseen(error, self._folder.layout.topic(name))
            return await asyncio.to_thread(self._unopened, name, error)

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
        unlisted = None
        try:
            files = await asyncio.to_thread(self._folder.files, name)
            refused = await self._refused(files, strict=strict)
        except OSError as error:
            unlisted = _unreadable(folder, error)
            files, refused = {}, {0: unlisted}
        refused.update((at.partition, NotNowError(AT_WORK)) for at in closed if at.topic == name)
        if 0 not in files:
            missing = StartupError(f"{folder} has no partition 0 (0.db), which describes the topic")
            refused.setdefault(0, missing)
        first, topic_id, facts = (await self._some(name, [0], refused, strict=strict))[0]
        logs.append(first)
        if facts is None:
            return await self._undescribed(name, first, max(files, default=0) + 1)
        num_partitions, config = facts
        for partition in range(1, num_partitions):
            if partition not in files:
                path = self._folder.file(name, partition)
                missing = StartupError(f"{path} is missing: topic {name!r} has {num_partitions} partitions")
                refused.setdefault(partition, unlisted or missing)
        for begin in range(1, num_partitions, OPEN_AT_A_TIME):
            few = range(begin, min(begin + OPEN_AT_A_TIME, num_partitions))
            for log, found_id, _ in await self._some(name, few, refused, strict=strict):
                logs.append(log)
                topic_id = topic_id or found_id
        if not self._shared.files.held and not closed:
            await asyncio.to_thread(self._remove_strays, name, topic_id, num_partitions)
        return SqliteTopic(name, topic_id, config, tuple(logs))

    async def open_more(self, name: str, partitions: Sequence[int], logs: list[SqlitePartition]) -> None:
        """Open new partitions of a topic and add them to `logs`. Raises UNOPENED."""
        for begin in range(0, len(partitions), OPEN_AT_A_TIME):
            few = partitions[begin : begin + OPEN_AT_A_TIME]
            for taken in await self._some(name, few, {}, strict=True):
                assert isinstance(taken.log, SqlitePartition)  # noqa: S101  the others are errors
                logs.append(taken.log)

    async def _some(
        self, name: str, partitions: Sequence[int], refused: Mapping[int, Exception], *, strict: bool
    ) -> list[Taken]:
        """Open a few partitions. Unless `strict`, one that cannot be served is an UnavailablePartition."""
        wanted = [(TopicPartition(name, number), refused.get(number)) for number in partitions]
        found = await asyncio.to_thread(self._look_at, wanted, strict=strict)
        return [self._taken(each) for each in found]

    def _look_at(
        self, wanted: Sequence[tuple[TopicPartition, Exception | None]], *, strict: bool
    ) -> list[Found | Refused]:  # on a worker thread
        found: list[Found | Refused] = []
        try:
            for at, refused in wanted:
                found.append(self._found(at, refused, strict=strict))
        except BaseException:
            for opened in found:
                if isinstance(opened, Found):
                    opened.close()
            raise
        return found

    def _found(
        self, at: TopicPartition, refused: Exception | None, *, strict: bool
    ) -> Found | Refused:  # on a worker thread
        path = self._folder.file(*at)
        try:
            if refused is not None:
                raise refused
            if not path.exists():
                raise StartupError(f"{path} is missing")
            found = open_file(path, at, self._witness, self._shared)
            if at.partition or found.facts is not None:
                return found
            found.close()
            raise StartupError(f"{path} does not say what the topic {at.topic!r} is")
        except Exception as error:
            if strict and not isinstance(error, NotNowError):
                raise
            _note_unforeseen(error, path)
            return Refused(at, path, error, glimpse(path, at, self._shared.topic_defaults))

    def _taken(self, found: Found | Refused) -> Taken:
        """Give what was found its place on the loop."""
        if isinstance(found, Found):
            return Taken(found.partition(self._shared, self._index), found.topic_id, found.facts)
        at, path, error, seen = found
        known = seen.known
        noted = self._witness.noted(seen.topic_id, at.partition)
        if noted is not None:
            known = replace(known, end_offset=max(known.end_offset, noted.end_offset))
        self._index.forget(at)
        self._index.note(at, seen.committed)
        self._shared.sources.note(at, dict.fromkeys(seen.source_groups, True))
        log = UnavailablePartition(at, path, _reason(error, path, at), known, may_pass=_may_pass(error))
        return Taken(log, seen.topic_id, seen.facts)

    async def _refused(self, files: Mapping[int, Path], *, strict: bool) -> dict[int, Exception]:
        """Bring files of the oldest version up to date. Returns why others are refused, by number."""
        try:
            await asyncio.to_thread(versions.check, list(files.values()))
        except (StartupError, OSError):
            if strict:
                raise
        else:
            return {}
        refused: dict[int, Exception] = {}
        for number, path in files.items():
            try:
                await asyncio.to_thread(versions.check, [path])
            except StartupError as error:
                if versions.is_newer(error):
                    raise
                refused[number] = error
            except OSError as error:
                refused[number] = _unreadable(path, error)
        return refused

    async def _undescribed(self, name: str, first: Log, count: int) -> SqliteTopic:
        """The topic whose partition 0 is refused and does not say what the topic is."""
        why = first.reason if isinstance(first, UnavailablePartition) else ""
        reason = StartupError(FOLLOWS.format(why))
        numbers = range(1, count)
        others = await self._some(name, numbers, dict.fromkeys(numbers, reason), strict=False)
        topic_id = next((other.topic_id for other in others if other.topic_id), "")
        logs = (first, *(other.log for other in others))
        return SqliteTopic(name, topic_id, self._shared.topic_defaults, logs, described=False)

    def _unopened(self, name: str, error: Exception) -> SqliteTopic:  # on a worker thread
        """The topic that could not be opened because of `error`. None of its files is looked into."""
        try:
            numbers = range(max(self._folder.files(name), default=0) + 1)
        except OSError:
            numbers = range(1)
        ats = [TopicPartition(name, number) for number in numbers]
        paths = [self._folder.file(*at) for at in ats]
        first = _reason(error, paths[0], ats[0])
        reasons = [first, *(FOLLOWS.format(first) for _ in numbers[1:])]
        logs = [
            UnavailablePartition(at, path, reason, Known(), may_pass=_may_pass(error))
            for at, path, reason in zip(ats, paths, reasons, strict=True)
        ]
        return SqliteTopic(name, "", self._shared.topic_defaults, tuple(logs), described=False)

    async def again(self, log: UnavailablePartition) -> Log:
        """Try to serve a partition of a topic that is described; another refusal if that does not do."""
        at = TopicPartition(log.topic, log.partition)
        return self._taken(await asyncio.to_thread(self._found_again, at, log.path)).log

    def _found_again(self, at: TopicPartition, path: Path) -> Found | Refused:  # on a worker thread
        refused = None
        try:
            if path.exists():
                versions.check([path])
        except UNOPENED as error:
            refused = error
        return self._found(at, refused, strict=False)

    def _remove_strays(self, name: str, topic_id: str, num_partitions: int) -> None:  # on a worker thread
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
                if row is None or row.topic_id != topic_id or row.end_offset:
                    continue
                self._folder.remove(name, [number])
            except UNOPENED as error:
                logger.warning("stray_left", path=str(path), reason=sentence(error))
            else:
                logger.info(
                    "stray_removed", path=str(path), reason="an interrupted change of the topic made it"
                )


def _unreadable(path: Path, error: OSError) -> StartupError:
    refused = StartupError(f"{path} cannot be read: {sentence(error)}")
    refused.__cause__ = error
    return refused


def _may_pass(error: Exception) -> bool:
    """True if the file may be whole, and what kept it from being opened may be gone at the next attempt."""
    cause = error.__cause__ if isinstance(error, StartupError) else error
    return isinstance(cause, OSError | apsw.Error | NotNowError) and not is_damage(cause)


def _note_unforeseen(error: Exception, path: Path) -> None:
    """Log an error that is none of those that a file is known to cause."""
    if not isinstance(error, (NotNowError, *UNOPENED)):
        logger.error("opening_failed", path=str(path), exc_info=error)


def _reason(error: Exception, path: Path, at: TopicPartition) -> str:
    if isinstance(error, StartupError | NotNowError):
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
