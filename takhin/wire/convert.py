"""Messages to the values of model.py and back. Refuses a message of a wrong shape and decides nothing else.

A batch's records come from columns.py, and the records of a response go out by encode.py. What is about
consumer groups is in convert_groups.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from takhin import topic_configs
from takhin.descriptions import PartitionInfo, TopicInfo
from takhin.errors import EndOffsetMismatchError, InvalidBatchError, TakhinError
from takhin.model import (
    Appended,
    Batch,
    BrokerHealth,
    Condition,
    ConsumeRequest,
    GroupState,
    Header,
    OffsetAtTime,
    ProduceRequest,
    Source,
    TopicPartition,
)
from takhin.sizes import size_bytes
from takhin.topic_configs import ConfigEntry
from takhin.turns import LARGE_BYTES, in_turns
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.columns import Columns, headers_of, key_of, parsed_again, value_of
from takhin.wire.packed import PackedRequest, packed_batch

R = TypeVar("R")

NODE_ID = 0
"""The number of the only broker, for fields about leaders and replicas."""
ECHO_CHARS_MAX = 255
"""How much of a name a refusal repeats."""


CheckCounts = Callable[[int, Sequence[int]], None]
"""Refuses a batch of so many records, or with so many headers in each."""


async def produce_request(
    message: pb.ProduceMessageRequest | PackedRequest, wire_bytes: int, check: CheckCounts
) -> ProduceRequest:
    """The message as a value. wire_bytes: its size, decompressed. Raises as `batch` does."""
    if isinstance(message, PackedRequest):
        request, found = message.head, packed_batch(message, _condition(message.head))
    else:
        request, found = message, await batch(message, wire_bytes, check)
    acks = request.required_acks if request.HasField("required_acks") else None
    return ProduceRequest(request.topic, request.partition, found, acks, request.timeout_ms, request.topic_id)


async def batch(request: pb.ProduceMessageRequest, wire_bytes: int, check: CheckCounts) -> Batch:
    """The records of a produce request: `record` is a batch of one.

    Raises InvalidBatchError for a request that has both `record` and `records`, or neither, and what `check`
    raises.
    """
    if request.HasField("record"):
        if request.records:
            raise InvalidBatchError("the request has both record and records; set one of them")
        check(1, (len(request.record.headers),) if request.record.headers else ())
        return _batch_of_one(request.record, _condition(request))
    if not request.records:
        raise InvalidBatchError("the request has neither record nor records; set one of them")
    check(len(request.records), ())
    if wire_bytes > LARGE_BYTES:
        return await _large_batch(request, wire_bytes, check)
    wire = request.SerializeToString()
    parsed = parsed_again(request, wire)
    if parsed.records.headers:  # before they are converted, which costs the most
        check(len(request.records), [len(record.headers) for record in request.records])
    columns = Columns(request, wire, parsed)
    return Batch(
        columns.keys,
        columns.values,
        columns.timestamps,
        columns.headers,
        columns.size_bytes,
        _condition(request),
    )


async def _large_batch(request: pb.ProduceMessageRequest, wire_bytes: int, check: CheckCounts) -> Batch:
    """The records of a large request, one by one, so that others have their turn after some of them.

    To serialize it for the columns would take 15 ms for 10 MiB, in one turn.
    """
    records = request.records
    check(len(records), [len(record.headers) for record in records])
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    timestamps: list[int] = []
    headers: dict[int, list[Header]] = {}
    async for record in in_turns(records):
        if record.headers:
            headers[len(keys)] = headers_of(record)
        keys.append(key_of(record))
        values.append(value_of(record))
        timestamps.append(record.timestamp)
    return Batch(keys, values, timestamps, headers, wire_bytes, _condition(request))


def _batch_of_one(record: pb.Record, condition: Condition | None) -> Batch:
    headers = {0: headers_of(record)} if record.headers else {}
    key, value, timestamp = key_of(record), value_of(record), record.timestamp
    size = size_bytes((key,), (value,), headers.values())  # protobuf would serialize the record for its own
    return Batch((key,), (value,), (timestamp,), headers, size, condition)


def _condition(request: pb.ProduceMessageRequest) -> Condition | None:
    expected = request.expected_offset if request.HasField("expected_offset") else None
    maybe = request.maybe_stored_from if request.HasField("maybe_stored_from") else None
    source = None
    if request.HasField("source"):
        of = request.source
        source = Source(of.group_id, of.topic, of.partition, of.offset, of.incarnation_id)
    of_producer = request.producer_id or request.sequence
    if expected is None and maybe is None and source is None and not of_producer:
        return None
    return Condition(request.producer_id, request.sequence, expected, maybe, source)


def produced(
    topic: str, appended: Appended, num_partitions: int, throttled_ms: int = 0
) -> pb.ProduceMessageResponse:
    return pb.ProduceMessageResponse(
        topic=topic,
        partition=appended.partition,
        offset=appended.offset,
        timestamp=appended.timestamp,
        record_count=appended.record_count,
        duplicate=appended.duplicate,
        num_partitions=num_partitions,
        throttled_ms=throttled_ms,
    )


def consume_request(request: pb.ConsumeMessagesRequest) -> ConsumeRequest:
    return ConsumeRequest(
        request.topic,
        request.partition,
        request.offset,
        start_timestamp=request.start_timestamp if request.HasField("start_timestamp") else None,
        max_bytes=request.max_bytes,
        min_bytes=request.min_bytes,
        max_wait_ms=request.max_wait_ms,
        stop_at_end=request.stop_at_end,
        stop_offset=request.stop_offset if request.HasField("stop_offset") else None,
        max_records=request.max_records,
        incarnation_id=request.incarnation_id,
    )


def topic_info(info: TopicInfo) -> pb.TopicInfo:
    return pb.TopicInfo(
        name=info.name,
        num_partitions=info.num_partitions,
        replication_factor=1,
        partitions={of.partition: _partition_info(of) for of in info.partitions},
        configs={} if info.config is None else topic_configs.as_texts(info.config),
        topic_id=info.topic_id,
    )


def _partition_info(info: PartitionInfo) -> pb.PartitionInfo:
    return pb.PartitionInfo(
        partition_id=info.partition,
        beginning_offset=info.start_offset,
        end_offset=info.end_offset,
        leader=NODE_ID,
        replicas=[NODE_ID],
        isr=[NODE_ID],
        incarnation_id=info.incarnation_id,
        size_bytes=info.size_bytes,
        first_timestamp=info.first_timestamp,
        last_timestamp=info.last_timestamp,
        record_count=info.record_count,
        unavailable_reason=info.unavailable_reason,
    )


def configs(entries: Iterable[ConfigEntry]) -> pb.DescribeTopicConfigsResponse:
    return pb.DescribeTopicConfigsResponse(
        configs=[
            pb.TopicConfigEntry(name=of.name, value=of.value, origin=of.origin, doc=of.doc) for of in entries
        ]
    )


async def time_queries(request: pb.GetOffsetsForTimesRequest) -> list[tuple[TopicPartition, int]]:
    return [
        (TopicPartition(asked.topic, asked.partition), asked.timestamp)
        async for asked in in_turns(request.queries)
    ]


def offsets_at_times(found: Iterable[tuple[TopicPartition, OffsetAtTime]]) -> pb.GetOffsetsForTimesResponse:
    response = pb.GetOffsetsForTimesResponse()
    for (topic, partition), at in found:
        response.offsets.add(topic=topic, partition=partition, timestamp=at.timestamp, offset=at.offset)
    return response


def health(found: BrokerHealth) -> pb.HealthCheckResponse:
    return pb.HealthCheckResponse(
        status=found.status,
        version=found.version,
        uptime_seconds=found.uptime_seconds,
        reasons=found.troubles,
    )


def repeated_fields(response_class: type[Any]) -> tuple[str, ...]:
    """The fields of a request that a refusal by such a response repeats."""
    fields = response_class.DESCRIPTOR.fields_by_name
    names = ("topic", "partition", "group_id")
    return tuple(name for name in names if name in fields and fields[name].message_type is None)


def refusal(response: R, asked: Mapping[str, Any], error: TakhinError, code: int) -> R:
    """Fill a response that has an error field: the sentence, the code, and what it is about.

    asked: the topic, partition or group that the request named, by field. An offset is -1, never a valid one.
    """
    filled: Any = response
    fields = filled.DESCRIPTOR.fields_by_name
    filled.error = str(error)
    filled.error_code = code
    if isinstance(error, EndOffsetMismatchError):
        filled.end_offset = error.end_offset
    for name, value in asked.items():
        setattr(filled, name, value[:ECHO_CHARS_MAX] if isinstance(value, str) else value)
    ends = ("beginning_offset", "end_offset") if "beginning_offset" in fields else ()
    for name in ("offset", *ends):
        if name in fields:
            setattr(filled, name, -1)
    if "state" in fields:
        filled.state = GroupState.DEAD.value
    return response
