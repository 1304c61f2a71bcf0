"""What is allowed, as pure functions: each returns the checked value or raises a named RefusedError.

Everything a caller can get wrong is caught here, before anything is queued or written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from takhin.errors import (
    InvalidArgumentError,
    InvalidConfigError,
    InvalidGroupIdError,
    InvalidRecordError,
    InvalidTopicNameError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    UnsupportedReplicationError,
)
from takhin.model import (
    HEADER_OVERHEAD_BYTES,
    RECORD_OVERHEAD_BYTES,
    Batch,
    Condition,
    Header,
    Records,
    TimestampType,
    TopicConfig,
)

TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
GROUP_ID_BYTES_MAX = 255
PRODUCER_ID_BYTES = 16
METADATA_BYTES_MAX = 4_096
SHOWN_CHARS_MAX = 80
INT64_MAX = (1 << 63) - 1

MAX_MESSAGE_BYTES = "max.message.bytes"
TIMESTAMP_TYPE = "message.timestamp.type"


def shown(value: str) -> str:
    """A caller's text as an error may repeat it: quoted, escaped, cut at 80 characters."""
    if len(value) <= SHOWN_CHARS_MAX:
        return ascii(value)
    return f"{value[:SHOWN_CHARS_MAX]!a}… ({len(value)} characters)"


def check_topic_name(name: str) -> str:
    """`name` as it is. The rule is Kafka's (org.apache.kafka.common.internals.Topic)."""
    reason = None
    if not TOPIC_NAME.fullmatch(name):
        reason = "a topic name is 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-'"
    elif name in (".", ".."):
        reason = "'.' and '..' are no topic names"
    elif name.startswith("__"):
        reason = "names that begin with '__' are reserved"
    if reason is not None:
        raise InvalidTopicNameError(f"invalid topic name {shown(name)}: {reason}", topic=name[:249])
    return name


def check_group_id(group_id: str) -> str:
    """`group_id` as it is: 1 to 255 bytes of UTF-8, any character."""
    size = len(group_id.encode())
    if not 1 <= size <= GROUP_ID_BYTES_MAX:
        raise InvalidGroupIdError(
            f"a group id has 1 to {GROUP_ID_BYTES_MAX} bytes, not {size}: {shown(group_id)}",
            group_id=group_id[:GROUP_ID_BYTES_MAX],
        )
    return group_id


def check_range(name: str, value: int, least: int, most: int = INT64_MAX) -> int:
    """`value` as it is if it lies in [least, most]; the error names the field and the value."""
    if least <= value <= most:
        return value
    bounds = f"at least {least}" if most == INT64_MAX else f"{least} to {most}"
    raise InvalidArgumentError(f"{name} must be {bounds}, not {value}", field=name, value=value)


def check_metadata(metadata: str) -> str:
    """The text beside a committed offset, as it is: at most 4,096 bytes of UTF-8."""
    size = len(metadata.encode())
    if size > METADATA_BYTES_MAX:
        raise InvalidArgumentError(
            f"metadata has at most {METADATA_BYTES_MAX} bytes, not {size}", field="metadata", value=size
        )
    return metadata


def check_replication(replication_factor: int) -> None:
    """This broker is one machine: 0 (unset) and 1 are all it can promise."""
    check_range("replication_factor", replication_factor, 0)
    if replication_factor > 1:
        raise UnsupportedReplicationError(
            f"replication_factor {replication_factor} is more than this broker has: it runs on one "
            "machine and keeps one copy, made durable by fsync",
            replication_factor=replication_factor,
        )


def check_commit_offset(topic: str, partition: int, offset: int, end: int) -> int:
    """A committed offset is the next one to read: 0 to end_offset."""
    if not 0 <= offset <= end:
        raise OffsetOutOfRangeError(topic, partition, offset, 0, end)
    return offset


def topic_config(raw: Mapping[str, str], *, default_bytes: int, bytes_max: int) -> TopicConfig:
    """The configs of a create call, under Kafka's names.

    default_bytes: max.message.bytes where it is not given. bytes_max: the most it may be, so that a
    record always fits a message.
    """
    config = TopicConfig(min(default_bytes, bytes_max))
    for key, value in raw.items():
        if key == MAX_MESSAGE_BYTES:
            config = TopicConfig(_config_int(key, value, 1, bytes_max), config.timestamp_type)
        elif key == TIMESTAMP_TYPE:
            config = TopicConfig(config.max_message_bytes, _timestamp_type(value))
        else:
            raise InvalidConfigError(
                f"unknown topic config {shown(key)}; known are {MAX_MESSAGE_BYTES} and {TIMESTAMP_TYPE}",
                key=key[:SHOWN_CHARS_MAX],
            )
    return config


def config_values(config: TopicConfig) -> dict[str, str]:
    """The inverse of `topic_config`: every config with the value in force."""
    return {
        MAX_MESSAGE_BYTES: str(config.max_message_bytes),
        TIMESTAMP_TYPE: config.timestamp_type.value,
    }


def _config_int(key: str, value: str, least: int, most: int) -> int:
    if re.fullmatch(r"[0-9]{1,18}", value) and least <= int(value) <= most:
        return int(value)
    raise InvalidConfigError(
        f"{key} takes a whole number from {least} to {most}, not {shown(value)}", key=key
    )


def _timestamp_type(value: str) -> TimestampType:
    try:
        return TimestampType(value)
    except ValueError:
        known = " or ".join(TimestampType)
        raise InvalidConfigError(
            f"{TIMESTAMP_TYPE} takes {known}, not {shown(value)}", key=TIMESTAMP_TYPE
        ) from None


def size_bytes(
    keys: Iterable[bytes | None], values: Iterable[bytes | None], headers: Iterable[Sequence[Header]]
) -> int:
    """What records count against max.message.bytes: keys, values, and headers with their overhead."""
    size = sum(map(len, filter(None, keys))) + sum(map(len, filter(None, values)))
    for of_record in headers:
        for key, value in of_record:
            size += HEADER_OVERHEAD_BYTES + len(key.encode()) + len(value)
    return size


def response_bytes(records: Records) -> int:
    """What records take in a response, rounded up."""
    keys, values = (row[2] for row in records.rows), (row[3] for row in records.rows)
    return RECORD_OVERHEAD_BYTES * len(records.rows) + size_bytes(keys, values, records.headers.values())


def check_condition(batch: Batch, condition: Condition, partition: int) -> None:
    """What an append under a condition must say. partition: as the request names it."""
    size = len(condition.producer_id)
    if size not in (0, PRODUCER_ID_BYTES):
        raise InvalidArgumentError(
            f"producer_id must have {PRODUCER_ID_BYTES} bytes, not {size}", field="producer_id", value=size
        )
    if condition.sequence and not size:
        raise InvalidArgumentError(
            f"sequence {condition.sequence} needs a producer_id whose it is",
            field="sequence",
            value=condition.sequence,
        )
    check_range("sequence", condition.sequence, 0, INT64_MAX - len(batch))
    if condition.expected_offset is not None:
        check_range("expected_offset", condition.expected_offset, 0)
    if partition < 0:
        raise InvalidArgumentError(
            f"a batch with a producer_id or an expected_offset must name its partition, not {partition}",
            field="partition",
            value=partition,
        )


def check_batch(batch: Batch, *, max_message_bytes: int, now: int, ahead_ms_max: int) -> Batch:
    """`batch` as it is: record sizes, timestamps and header keys. now: ms since 1970."""
    if batch.size_bytes > max_message_bytes:  # else no single record can be above it
        for position in range(len(batch)):
            _check_record_size(batch, position, max_message_bytes)
    least, most = min(batch.timestamps), max(batch.timestamps)
    if least < 0 or most > now + ahead_ms_max:
        wrong = least if least < 0 else most
        raise InvalidRecordError(
            f"record {list(batch.timestamps).index(wrong)} has timestamp {wrong}; it must lie between 0 "
            f"(1970) and {ahead_ms_max} ms ahead of the broker's clock, which says {now}",
            timestamp=wrong,
        )
    for position, of_record in batch.headers.items():
        for i, header in enumerate(of_record):
            if not header.key:
                raise InvalidRecordError(f"header {i} of record {position} has no key", record=position)
    return batch


def _check_record_size(batch: Batch, position: int, max_message_bytes: int) -> None:
    at = slice(position, position + 1)
    size = size_bytes(batch.keys[at], batch.values[at], [batch.headers.get(position, ())])
    if size > max_message_bytes:
        raise RecordTooLargeError(
            f"record {position} has {size} bytes; the topic's {MAX_MESSAGE_BYTES} is {max_message_bytes}",
            record=position,
            size_bytes=size,
            max_message_bytes=max_message_bytes,
        )
