"""A partition whose file is not open, because it cannot be served. The contract's PartitionLog.

It refuses everything with its reason and keeps what is known of the log. Why it came to that is in topics.py,
when it is tried again in catalogue.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from takhin.disk.layout import size_bytes, wal_of
from takhin.errors import PartitionUnavailableError, UnknownTopicError
from takhin.model import (
    INT64_MAX,
    NO_TIMESTAMP,
    Appended,
    Batch,
    CommittedOffset,
    OffsetAtTime,
    PartitionState,
    Records,
    TopicConfig,
    TopicPartition,
)
from takhin.storage.contract import Fence

Signature = tuple[tuple[int, ...] | None, ...]
"""Inode, mode, size and times of the file and its write-ahead log; None for one that cannot be looked at."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a log that cannot be served. missing: how many of its offsets have no record."""

    start_offset: int = 0
    end_offset: int = 0
    incarnation_id: str = ""
    missing: int = 0


class UnavailablePartition:
    """The log in a file that cannot be served."""

    def __init__(self, at: TopicPartition, path: Path, reason: str, known: Known, *, may_pass: bool) -> None:
        """may_pass: the file itself may be whole, so it is tried again even if it stays as it is."""
        self.topic, self.partition = at
        self.path = path
        self.reason = reason
        self.start_offset = known.start_offset
        self.end_offset = known.end_offset
        self.incarnation_id = known.incarnation_id
        self.record_count = max(0, known.end_offset - known.start_offset - known.missing)
        self.closed = False
        self._may_pass = may_pass
        self._tried = self._seen = signature(path)

    @property
    def error(self) -> PartitionUnavailableError:
        return PartitionUnavailableError(
            f"topic {self.topic!r} partition {self.partition} is not served: {self.reason}",
            topic=self.topic,
            partition=self.partition,
        )

    @property
    def size_bytes(self) -> int:
        return size_bytes(self.path) + size_bytes(wal_of(self.path))

    @property
    def first_timestamp(self) -> int:
        return NO_TIMESTAMP

    @property
    def last_timestamp(self) -> int:
        return NO_TIMESTAMP

    @property
    def state(self) -> PartitionState:
        return PartitionState.FAILED

    def worth_a_try(self) -> bool:
        """True if opening the file may do now: it is another one than at the last try, and at rest."""
        before, self._seen = self._seen, signature(self.path)
        return self._may_pass or before == self._seen != self._tried

    def check_available(self) -> NoReturn:
        raise UnknownTopicError(self.topic) if self.closed else self.error

    def append(self, _batch: Batch) -> asyncio.Future[Appended]:
        self.check_available()

    async def read(
        self, _offset: int, *, max_bytes: int, max_records: int, below: int = INT64_MAX
    ) -> Records:
        self.check_available()

    async def grown(self, _end: int) -> None:
        """Return at once: the next question gets the reason."""

    async def offset_for_time(self, _timestamp: int) -> OffsetAtTime:
        self.check_available()

    def known_timestamp(self, _offset: int) -> int | None:
        return None

    async def timestamp_from(self, _offset: int) -> int:
        self.check_available()

    async def trim(self, _offset: int) -> int:
        self.check_available()

    async def compaction_due(self, _config: TopicConfig, _now: int) -> bool:
        """Nothing is due: nothing can be done."""
        return False

    async def compact(self, _config: TopicConfig, _now: int) -> int:
        self.check_available()

    # As SqlitePartition has it

    def commit_offset(
        self, _group_id: str, _committed: CommittedOffset, _fence: Fence | None
    ) -> asyncio.Future[None]:
        self.check_available()

    def forget_offset(self, _group_id: str) -> asyncio.Future[None]:
        self.check_available()

    def forget_sources(self, _group_id: str, _topics: Collection[str] | None) -> asyncio.Future[None]:
        self.check_available()

    def check_writable(self) -> None:
        self.check_available()

    def alter_topic(self, _num_partitions: int, _configs: Mapping[str, str]) -> asyncio.Future[None]:
        self.check_available()

    def end_compaction(self) -> None:
        """None runs."""

    async def landed(self) -> None:
        """Return at once: nothing is queued."""

    async def close(self) -> None:
        self.closed = True


def signature(path: Path) -> Signature:
    """What changes when another file takes the place of this one, or when it may be read or is written."""
    return tuple(_of(each) for each in (path, wal_of(path)))


def _of(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns
