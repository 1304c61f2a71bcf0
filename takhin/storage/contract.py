"""The storage contract: an engine keeps topics, records, and the offsets that groups commit.

Every engine passes the suite in `takhin.testing.contract`. The contract is bound to one asyncio event loop:
all of it is called on that loop, and nothing in it blocks for longer than a short read. It has no word of
SQLite, so that an engine over something else fits behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from takhin.errors import FencedMemberError
from takhin.meters import EngineMeters
from takhin.model import (
    INT64_MAX,
    Appended,
    Batch,
    CommittedOffset,
    OffsetAtTime,
    PartitionState,
    Records,
    TopicConfig,
    TopicPartition,
    TopicSpec,
)


class Capability(StrEnum):
    """What an engine may lack: the suite then leaves out tests, and the broker refuses requests by name."""

    DURABLE = "durable"
    """What was acknowledged survives the end of the process."""
    SEQUENCES = "sequences"
    """A producer's batch that is sent again is recognised by its sequence, and stored once."""
    SOURCES = "sources"
    """A batch that was made of an input record is stored once, whoever sends it again."""
    EXPECTED_OFFSET = "expected_offset"
    """An append may name the offset at which the log must end."""
    TRIM = "trim"
    """A log's start can be moved up to any offset."""
    COMPACT = "compact"
    """A log can be compacted to the last record of each key."""
    PACKED = "packed"
    """It appends batches that are `packed` without asking for their columns, which would take longer then."""


class Fence:
    """What is between a commit of a group's member and the partition: closed once the member owns it no more.

    An engine checks it right before it writes, so that no commit of a former owner is written after its fence
    was closed, however long it has waited.
    """

    __slots__ = ("_reason",)

    def __init__(self) -> None:
        self._reason: str | None = None

    def close(self, reason: str) -> None:
        """Refuse what is not written yet. reason: a sentence."""
        self._reason = reason

    def check(self) -> None:
        """Raise FencedMemberError once closed."""
        if self._reason is not None:
            raise FencedMemberError(self._reason)


NO_FENCES: Mapping[TopicPartition, Fence] = MappingProxyType({})
"""Those of a commit that is not a member's."""


class PartitionLog(Protocol):
    """One partition's log, the half-open offset range [start_offset, end_offset).

    Once closed, every method but `grown` raises UnknownTopicError. While the engine cannot serve the log they
    raise PartitionUnavailableError, and its properties say what is known of it. Offsets are given from 0, in
    append order, one after the other, and never twice, whatever is removed. A log has gaps where records were
    removed.
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

    @property
    def size_bytes(self) -> int:
        """The space that the log takes where the engine keeps it, now. Raises OSError where that fails."""

    @property
    def record_count(self) -> int:
        """How many records there are. Fewer than the range is long where some were removed."""

    @property
    def first_timestamp(self) -> int:
        """The timestamp (ms) of the first record there is; -1 if there is none, or it cannot be read."""

    @property
    def last_timestamp(self) -> int:
        """The timestamp (ms) of the last record, likewise."""

    @property
    def state(self) -> PartitionState:
        """What the engine does with it now. One that needs nothing opened is always OPEN."""

    def check_available(self) -> None:
        """Raises PartitionUnavailableError if the engine cannot serve it, UnknownTopicError once closed."""

    def append(self, batch: Batch) -> asyncio.Future[Appended]:
        """Queue a batch; the future resolves when it is durable, all of it or nothing.

        Batches of one log land in the order of the calls. The batch has been validated: after this
        only the disk, a lock, a shutdown or its own condition can fail it. A cancelled future does not undo
        the append. A batch with a condition is judged when those before it have landed or failed. The
        producer's new sequence, and the offset of the source that is taken, are committed with the records.
        The future resolves only after the commit that decided it, so an answer "duplicate" or "refused" also
        survives a crash. What is remembered of sources stays when the records are removed. No source is
        forgotten while its log is there, unless its group is: see `Offsets.forget`.
        Errors in the future: StorageFullError, PartitionUnavailableError, OutcomeUnknownError,
        OutOfSequenceError, EndOffsetMismatchError, InvalidArgumentError for more sources than it remembers.
        Raises UnknownTopicError at once if the log is closed, PartitionUnavailableError if it has failed.
        """

    async def read(self, offset: int, *, max_bytes: int, max_records: int, below: int = INT64_MAX) -> Records:
        """Records of [offset, below), in offset order; their `next_offset` says where to go on.

        Bounded by both limits, but at least one record if there is any; `max_bytes` counts keys,
        values, headers and RECORD_OVERHEAD_BYTES each. `offset` must lie in [start_offset,
        end_offset], else OffsetOutOfRangeError. May return fewer records than the limits allow, and
        none where all that follow were removed. `next_offset` is above `offset` unless that is the end or not
        below `below`.
        """

    async def grown(self, end: int) -> None:
        """Return when end_offset is above `end`, or the log is closed; at once if that is so already."""

    async def offset_for_time(self, timestamp: int) -> OffsetAtTime:
        """The first record, by offset, whose timestamp (ms) is at or after `timestamp`."""

    def known_timestamp(self, offset: int) -> int | None:
        """What `timestamp_from` returns, if it is known without reading; None: it is not.

        An engine knows it where groups have committed, but for what has happened since to records there.
        """

    async def timestamp_from(self, offset: int) -> int:
        """The timestamp (ms) of the first record at or after an offset; -1 if there is none."""

    async def trim(self, offset: int) -> int:
        """Move start_offset up to `offset` (at most end_offset) and drop the records below it.

        Returns where the log begins then, durably: `offset`, or above it. It moves in steps, each durable, so
        that a large trim holds nobody up. An offset below start_offset moves nothing.
        Raises OffsetOutOfRangeError past the end.
        """

    async def compaction_due(self, config: TopicConfig, now: int) -> bool:
        """True if `compact` should be called now (ms since 1970), by the topic's config."""

    async def compact(self, config: TopicConfig, now: int) -> int:
        """Remove records that a later one with the same key supersedes; returns how many.

        What stays and what goes is in `takhin.storage.compaction`. Offsets stay what they are. It goes on in
        steps, each durable, and waits while they cannot be made. What a crash or a cancellation interrupts is
        finished by the next call first. now: ms since 1970.
        """


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
    def described(self) -> bool:
        """False while none of it is served because nobody knows its config: `config` only stands in."""

    @property
    def partitions(self) -> Sequence[PartitionLog]: ...


class Offsets(Protocol):
    """The offsets that consumer groups have committed, in all topics. Questions are answered from memory."""

    async def commit(
        self,
        group_id: str,
        offsets: Mapping[TopicPartition, CommittedOffset],
        fences: Mapping[TopicPartition, Fence] = NO_FENCES,
    ) -> None:
        """Remember a group's offsets in place of its former ones; durable on return.

        fences: what each offset is checked by right before it is written; those without are not.
        Everything is queued before the first wait, so commits of one caller land in the order of the calls.
        Across partitions they are separate transactions: after an UnavailableError some may have landed.
        Raises UnknownTopicError, UnknownPartitionError with nothing remembered, and FencedMemberError whose
        `refused` has the partitions with a closed fence, once all others are remembered.
        """

    def of(self, group_id: str) -> Mapping[TopicPartition, CommittedOffset]:
        """All that is durably committed for a group; empty for a group that is unknown."""

    def groups(self) -> Sequence[str]:
        """The groups with a committed offset anywhere, sorted."""

    async def forget(self, group_id: str, topics: Collection[str] | None = None) -> bool:
        """Drop all that the group has committed, or only what it has in these topics; durable on return.

        So is forgotten what logs know of its sources, or of those in these topics. Returns False, with
        nothing done, for a group of which nothing is known: neither a committed offset nor a source.
        """


class Engine(Protocol):
    """Keeps topics. Life: `open`, use, `close`; an engine is not opened twice."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The promises that this engine keeps."""

    @property
    def topics(self) -> Mapping[str, Topic]:
        """The catalogue, by name. A snapshot: each change of the catalogue puts another one in its place."""

    @property
    def offsets(self) -> Offsets: ...

    @property
    def boot(self) -> int:
        """How often the engine was opened over its data, this time included: larger each time it is open.

        It never repeats over one and the same folder, also not after a crash.
        """

    @property
    def troubles(self) -> Sequence[str]:
        """A sentence for each thing that is wrong now: a partition that takes no writes, a full disk."""

    @property
    def meters(self) -> EngineMeters:
        """What it counts of its work. Those of a topic go with the topic."""

    def stats(self) -> Mapping[str, int]:
        """What the engine counts, by names with their unit (`queued_bytes`). Waits for nothing."""

    async def open(self) -> None:
        """Load the catalogue. Raises StartupError with a sentence for whatever stands in the way.

        A log that cannot be served is a trouble; all others are served.
        """

    async def close(self) -> None:
        """Finish every queued write, then let go of all files."""

    async def room(self) -> None:
        """Return when queued appends leave room for more. Await it right before an append.

        Raises OverloadedError if that takes too long, StorageFullError while the disk is full. An engine
        without a queue has room at all times.
        """

    async def create_topic(self, spec: TopicSpec) -> Topic:
        """Make a topic, durably and all at once. Raises TopicExistsError, StorageFullError."""

    async def alter_topic(self, name: str, wanted: Callable[[Topic], TopicSpec]) -> Topic:
        """Give a topic another config and as many partitions, durably and all at once.

        wanted: returns the spec that the topic is to have, of the same name. It is called when the change's
        turn has come, so it sees all changes before it. What it raises is raised, and nothing is changed.
        Its logs stay what they are, with all who wait for them; new ones are added behind them. If the topic
        becomes read only, what was appended before has landed or failed on return.
        Raises UnknownTopicError, InvalidArgumentError for fewer partitions than there are, StorageFullError,
        PartitionUnavailableError.
        """

    async def catalogue_changed(self, known: Mapping[str, Topic]) -> None:
        """Return when `topics` is another snapshot than `known`; at once if it is so already."""

    async def retain(self) -> None:
        """Remove what the topics' retention limits let go, as of now; durable on return.

        An open engine does so by itself, again and again. What cannot be written now is left for later.
        """

    async def delete_topic(self, name: str) -> None:
        """Remove a topic, durably and all at once; its logs become closed. Raises UnknownTopicError.

        Raises PartitionUnavailableError while its files are being copied.
        """
