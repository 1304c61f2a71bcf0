"""Where to begin and where to stop: places, times and committed offsets as numbers, by asking the broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import grpc

from takhin.client.connection import Connection, ended
from takhin.client.model import (
    COMMITTED,
    START,
    CommittedOffset,
    PartitionDescription,
    Place,
    Position,
    Span,
    TopicDescription,
    ms_of,
)
from takhin.errors import InvalidArgumentError, UnknownPartitionError
from takhin.limits import INT64_MAX, check_range
from takhin.model import EARLIEST, TopicPartition
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.columns import ResponseColumns

LOOKUPS_AT_ONCE_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where to read a partition. first: the offset to ask for; position: the same, never EARLIEST."""

    first: int
    position: int
    stop_offset: int | None
    partition: PartitionDescription


class Positions:
    """Finds starts. group_id: whose commits COMMITTED means; uncommitted: where it has none."""

    def __init__(self, connection: Connection, group_id: str | None, uncommitted: Position) -> None:
        if isinstance(uncommitted, Place) and uncommitted.name == COMMITTED.name:
            raise InvalidArgumentError("uncommitted is another place than COMMITTED", field="uncommitted")
        self._connection = connection
        self._group_id = group_id
        self._uncommitted = uncommitted
        self._slots = asyncio.Semaphore(LOOKUPS_AT_ONCE_MAX)

    async def find(
        self, spans: Mapping[TopicPartition, Span], deadline: float
    ) -> dict[TopicPartition, Start]:
        """Raises UnknownTopicError, UnknownPartitionError, and InvalidArgumentError for a bad position."""
        for span in spans.values():
            _check("start", span.start)
            if span.stop is not None:
                _check("stop", span.stop)
        topics = dict.fromkeys(at.topic for at in spans)
        found = await asyncio.gather(*(describe(self._connection, topic, deadline) for topic in topics))
        partitions = {of.name: of.partitions for of in found}
        for topic, partition in spans:
            if not 0 <= partition < len(partitions[topic]):
                raise UnknownPartitionError(topic, partition, len(partitions[topic]))
        committed = await self._committed(spans, deadline)
        starts = await asyncio.gather(
            *(
                self._start(span, at, partitions[at.topic][at.partition], committed, deadline)
                for at, span in spans.items()
            )
        )
        return dict(zip(spans, starts, strict=True))

    async def _committed(
        self, spans: Mapping[TopicPartition, Span], deadline: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        asked = [
            at
            for at, span in spans.items()
            if any(isinstance(of, Place) and of.name == COMMITTED.name for of in span)
        ]
        if not asked:
            return {}
        return await committed_offsets(self._connection, self._group_id, asked, deadline)

    async def _start(
        self,
        span: Span,
        at: TopicPartition,
        partition: PartitionDescription,
        committed: Mapping[TopicPartition, CommittedOffset],
        deadline: float,
    ) -> Start:
        async def number(position: Position, most: int) -> int:
            if isinstance(position, int):
                return position
            if isinstance(position, datetime):
                async with self._slots:
                    return await offset_for_time(self._connection, *at, ms_of(position, up=True), deadline)
            if position.name == COMMITTED.name:
                if at not in committed:
                    return await number(self._uncommitted, most)
                return committed[at].offset + position.records
            return partition.offset_of(position, most=most)

        position = await number(span.start, partition.end_offset)
        return Start(
            # The first record may be trimmed away before it is asked for: START is then the one after it.
            first=EARLIEST if span.start == START else position,
            position=position,
            stop_offset=None if span.stop is None else await number(span.stop, INT64_MAX),
            partition=partition,
        )


def _check(name: str, position: Position) -> None:
    match position:
        case Place():
            pass
        case datetime():
            ms_of(position)
        case int() if not isinstance(position, bool):
            check_range(name, position, 0)
        case _:
            raise InvalidArgumentError(
                f"{name} is START, END, COMMITTED, an offset or a datetime, not {position!r}", field=name
            )


async def describe(connection: Connection, topic: str, deadline: float) -> TopicDescription:
    """Raises UnknownTopicError."""
    response = await connection.call("GetTopic", pb.GetTopicRequest(name=topic), deadline)
    return description(response.topic)


def description(info: pb.TopicInfo) -> TopicDescription:
    partitions = [
        PartitionDescription(number, of.beginning_offset, of.end_offset, of.incarnation_id)
        for number, of in sorted(info.partitions.items())
    ]
    return TopicDescription(info.name, info.topic_id, dict(info.configs), partitions)


async def offset_for_time(
    connection: Connection, topic: str, partition: int, timestamp: int, deadline: float
) -> int:
    """The offset of the first record at or after `timestamp` (ms since 1970), or the end if there is none."""

    async def attempt() -> int:
        # The end comes first: a record that is stored between the two questions is then not passed over.
        asked = pb.GetPartitionOffsetsRequest(topic=topic, partition=partition)
        response = await connection.attempt("GetPartitionOffsets", asked, deadline)
        first = pb.ConsumeMessagesRequest(
            topic=topic, partition=partition, start_timestamp=timestamp, max_records=1, stop_at_end=True
        )
        call = connection.stream(first, seconds_max=deadline - time.monotonic())
        try:
            while (raw := await call.read()) is not grpc.aio.EOF:
                if offsets := ResponseColumns(raw).offsets:
                    return offsets[0]
        except grpc.aio.AioRpcError as error:
            raise connection.error_of(error) from error
        finally:
            await ended(call)
        return int(response.end_offset)

    return await connection.retried(attempt, deadline)


async def committed_offsets(
    connection: Connection, group_id: str | None, partitions: list[TopicPartition], deadline: float
) -> dict[TopicPartition, CommittedOffset]:
    """What the group committed in these partitions, or in all there are if none is named."""
    request = pb.GetCommittedOffsetsRequest(
        group_id=_named(group_id), partitions=[pb.TopicPartition(topic=t, partition=p) for t, p in partitions]
    )
    response = await connection.call("GetCommittedOffsets", request, deadline)
    return {
        TopicPartition(of.topic, of.partition): CommittedOffset(of.offset, of.metadata)
        for of in response.offsets
        if of.offset >= 0
    }


async def commit_offsets(
    connection: Connection,
    group_id: str | None,
    offsets: Mapping[tuple[str, int], int | CommittedOffset],
    deadline: float,
) -> None:
    """Durable on return. Raises OffsetOutOfRangeError for an offset beyond the end, with nothing written."""
    request = pb.CommitOffsetRequest(group_id=_named(group_id))
    for (topic, partition), commit in offsets.items():
        offset, metadata = commit if isinstance(commit, CommittedOffset) else (commit, "")
        request.offsets.add(topic=topic, partition=partition, offset=offset, metadata=metadata)
    if request.offsets:
        await connection.call("CommitOffset", request, deadline)


def _named(group_id: str | None) -> str:
    if group_id is None:
        raise InvalidArgumentError("committed offsets belong to a group; give group_id", field="group_id")
    return group_id
