"""The storage contract: an engine keeps topics, a partition log keeps records and committed offsets.

Every engine passes tests/storage/test_contract_*.py. The contract is bound to one asyncio event loop: all of
it is called on that loop, and nothing in it blocks for longer than a short read. It has no word of
SQLite, so that an engine over something else fits behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from takhin.model import Appended, Batch, CommittedOffset, Records, TopicConfig, TopicSpec


class PartitionLog(Protocol):
    """One partition's log, the half-open offset range [start_offset, end_offset).

    Once closed, every method raises UnknownTopicError. Offsets are dense from 0, in append order, and
    never given twice, whatever is trimmed.
    """

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def incarnation_id(self) -> str:
        """Changes when an older copy of the log is put back."""

    @property
    def start_offset(self) -> int: ...

    @property
    def end_offset(self) -> int:
        """The next offset to be given. Everything below it is durable and readable."""

    @property
    def closed(self) -> bool:
        """True once the topic is deleted or the engine closed."""

    def append(self, batch: Batch) -> asyncio.Future[Appended]:
        """Queue a batch; the future resolves when it is durable, all of it or nothing.

        Batches of one log land in the order of the calls. The batch has been validated: after this
        only the disk, a lock, a shutdown or its own condition can fail it. A cancelled future does not undo
        the append. A batch with a condition is judged when those before it have landed or failed, and what
        it is remembered by becomes durable together with its records; it resolves, also as a duplicate or
        refused, when all that it was judged by is durable.
        Errors in the future: StorageFullError, PartitionUnavailableError, OutcomeUnknownError,
        OutOfSequenceError, EndOffsetMismatchError.
        Raises UnknownTopicError at once if the log is closed, PartitionUnavailableError if it has failed.
        """

    async def read(self, offset: int, *, max_bytes: int, max_records: int) -> Records:
        """Records at and above `offset`, below end_offset, in offset order.

        Bounded by both limits, but at least one record if there is any; `max_bytes` counts keys,
        values, headers and RECORD_OVERHEAD_BYTES each. `offset` must lie in [start_offset,
        end_offset], else OffsetOutOfRangeError. May return fewer records than the limits allow.
        """

    async def offset_for_time(self, timestamp: int) -> int:
        """The first offset whose record's timestamp (ms) is at or after `timestamp`, else end_offset."""

    async def trim(self, offset: int) -> None:
        """Move start_offset up to `offset` (at most end_offset) and drop the records below it.

        It moves in steps, each durable, so that a large trim holds nobody up. A lower offset than
        start_offset changes nothing. Raises OffsetOutOfRangeError past the end.
        """

    def commit_offset(self, group_id: str, committed: CommittedOffset) -> asyncio.Future[None]:
        """Remember a group's offset in place of its former one; resolves when durable."""

    def forget_group(self, group_id: str) -> asyncio.Future[None]:
        """Drop the group's committed offset, if any; resolves when durable."""

    async def committed_offset(self, group_id: str) -> CommittedOffset | None:
        """The group's durable committed offset, or None."""

    async def group_ids(self) -> Sequence[str]:
        """The groups with a committed offset here, sorted."""


class Topic(Protocol):
    """A topic of the catalogue. `partitions[n]` is partition n."""

    @property
    def name(self) -> str: ...

    @property
    def topic_id(self) -> str:
        """A new one for each creation, also under a name that was used before."""

    @property
    def config(self) -> TopicConfig: ...

    @property
    def partitions(self) -> Sequence[PartitionLog]: ...


class Engine(Protocol):
    """Keeps topics. Life: `open`, use, `close`; an engine is not opened twice."""

    @property
    def topics(self) -> Mapping[str, Topic]:
        """The catalogue, by name. A snapshot: each change of the catalogue puts another one in its place."""

    @property
    def troubles(self) -> Sequence[str]:
        """A sentence for each thing that is wrong now: a partition that takes no writes, a full disk."""

    async def open(self) -> None:
        """Load the catalogue. Raises StartupError with a sentence for whatever stands in the way."""

    async def close(self) -> None:
        """Finish every queued write, then let go of all files."""

    async def room(self) -> None:
        """Return when queued appends leave room for more; OverloadedError if that takes too long.

        Raises StorageFullError while the disk is full.

        To be awaited right before an append. An engine without a queue has room at all times.
        """

    async def create_topic(self, spec: TopicSpec) -> Topic:
        """Make a topic, durably and all at once. Raises TopicExistsError, StorageFullError."""

    async def delete_topic(self, name: str) -> None:
        """Remove a topic, durably and all at once; its logs become closed. Raises UnknownTopicError.

        Raises PartitionUnavailableError while its files are being copied.
        """


EndMoved = Callable[[PartitionLog], None]
"""Called on the loop when a log's end_offset has moved, or the log was closed."""
