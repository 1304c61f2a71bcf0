"""What callers may ask for, as pure functions: each returns the checked value or raises a named RefusedError.

Whatever a caller can get wrong is caught here, before anything is queued or written. The configs of a topic
are checked in `takhin.topic_configs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from takhin.errors import (
    InvalidArgumentError,
    InvalidGroupIdError,
    InvalidRecordError,
    InvalidTopicNameError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    UnsupportedReplicationError,
)
from takhin.model import INT64_MAX, Batch, Condition, Source, TopicConfig
from takhin.sentences import shown
from takhin.sizes import HEADER_OVERHEAD_BYTES, size_bytes

TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
"""Kafka's rule, and a name of a folder. Not a setting: folders and copies rely on it."""

RESERVED = "__"
"""Begins the names of topics that are the broker's own."""

ACTIVITY_TOPIC = "__activity"
"""The one that there is: see broker/activity.py."""

GROUP_ID_BYTES_MAX = 255
"""Bytes of UTF-8. Not a setting: the interface promises it, and an id is a name, not data."""

PRODUCER_ID_BYTES = 16
"""A fact of the interface: the length of a UUID."""

METADATA_BYTES_MAX = 4_096
"""Bytes of UTF-8, Kafka's default (offset.metadata.max.bytes). Not a setting: metadata is a short note."""


def check_topic_name(name: str) -> str:
    """Return `name` if it may be a topic's. The rule is Kafka's (org.apache.kafka.common.internals.Topic)."""
    reason = None
    if not TOPIC_NAME.fullmatch(name):
        reason = "a topic name has 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-'"
    elif name in (".", ".."):
        reason = "'.' and '..' cannot be topic names"
    elif name.startswith(RESERVED) and name != ACTIVITY_TOPIC:
        reason = "names that begin with '__' are reserved"
    if reason is not None:
        raise InvalidTopicNameError(f"invalid topic name {shown(name)}: {reason}", topic=name[:249])
    return name


def check_changeable(name: str) -> str:
    """Return `name` if a client may make, change or delete a topic of that name."""
    if check_topic_name(name) == ACTIVITY_TOPIC:
        raise InvalidTopicNameError(
            f"topic {name!r} is the broker's own: only the settings activity.* change it", topic=name
        )
    return name


def check_group_id(group_id: str) -> str:
    """Return `group_id` if it has 1 to 255 bytes of UTF-8. Any character is allowed."""
    size = len(group_id.encode())
    if not 1 <= size <= GROUP_ID_BYTES_MAX:
        raise InvalidGroupIdError(
            f"a group id has 1 to {GROUP_ID_BYTES_MAX} bytes, not {size}: {shown(group_id)}",
            group_id=group_id[:GROUP_ID_BYTES_MAX],
        )
    return group_id


def check_range(name: str, value: int, least: int, most: int = INT64_MAX, *, setting: str = "") -> int:
    """Return `value` if it lies in [least, most]. The error names the field and the value.

    setting: the one that `most` comes from.
    """
    if least <= value <= most:
        return value
    bounds = f"at least {least}" if most == INT64_MAX else f"{least} to {most}"
    bounds += f" ({setting})" if setting else ""
    raise InvalidArgumentError(f"{name} must be {bounds}, not {value}", field=name, value=value)


def check_metadata(metadata: str) -> str:
    """Return the text that stands beside a committed offset if it has at most 4,096 bytes of UTF-8."""
    size = len(metadata.encode())
    if size > METADATA_BYTES_MAX:
        raise InvalidArgumentError(
            f"metadata has at most {METADATA_BYTES_MAX} bytes, not {size}", field="metadata", value=size
        )
    return metadata


def check_replication(replication_factor: int) -> None:
    """Accept 0 (unset) and 1: a broker on one machine keeps one copy."""
    check_range("replication_factor", replication_factor, 0)
    if replication_factor > 1:
        raise UnsupportedReplicationError(
            f"replication_factor {replication_factor} is more than this broker has: it runs on one "
            "machine and keeps one copy, made durable by fsync",
            replication_factor=replication_factor,
        )


def check_commit_offset(topic: str, partition: int, offset: int, end: int) -> int:
    """Return `offset` if a group may commit it. It is the next one to read, so it lies in [0, end]."""
    if not 0 <= offset <= end:
        raise OffsetOutOfRangeError(topic, partition, offset, 0, end)
    return offset


def check_condition(batch: Batch, condition: Condition, partition: int) -> None:
    """Accept what an append under a condition must say. partition: as the request names it."""
    size = len(condition.producer_id)
    if size not in (0, PRODUCER_ID_BYTES):
        raise InvalidArgumentError(
            f"producer_id must have {PRODUCER_ID_BYTES} bytes, not {size}", field="producer_id", value=size
        )
    if condition.sequence and not size:
        raise InvalidArgumentError(
            f"sequence {condition.sequence} was given without a producer_id",
            field="sequence",
            value=condition.sequence,
        )
    check_range("sequence", condition.sequence, 0, INT64_MAX - len(batch))
    if condition.maybe_stored_from is not None:
        check_range("maybe_stored_from", condition.maybe_stored_from, 0)
        if not size:
            raise InvalidArgumentError(
                "maybe_stored_from was given without a producer_id",
                field="maybe_stored_from",
                value=condition.maybe_stored_from,
            )
    if condition.expected_offset is not None:
        check_range("expected_offset", condition.expected_offset, 0)
    if partition < 0:
        raise InvalidArgumentError(
            "a batch with a producer_id, an expected_offset or a source must name its partition, not "
            f"{partition}",
            field="partition",
            value=partition,
        )


def check_source(source: Source, end: int) -> None:
    """Accept what a batch may be made of. end: where the source's log ends."""
    check_group_id(source.group_id)
    if not 0 <= source.offset < end:
        raise OffsetOutOfRangeError(source.topic, source.partition, source.offset, 0, end)


def check_headers(batch: Batch, header_bytes_max: int) -> None:
    """Accept headers of at most so many bytes, their keys and values."""
    if batch.size_bytes <= header_bytes_max:  # else no single header can be larger
        return
    for position, of_record in batch.headers.items():
        for i, (key, value) in enumerate(of_record):
            size = len(key.encode()) + len(value)
            if size > header_bytes_max:
                raise InvalidRecordError(
                    f"header {i} of {_named(position, batch)} has {size} bytes, its key and its value; at "
                    f"most {header_bytes_max} (produce.header_bytes_max)",
                    record=position,
                )


def check_batch(batch: Batch, config: TopicConfig, *, now: int) -> Batch:
    """Return `batch` if its record sizes, timestamps and keys are allowed. now: ms since 1970."""
    max_message_bytes, packed = config.max_message_bytes, batch.packed
    most_bytes = batch.size_bytes + HEADER_OVERHEAD_BYTES * batch.header_count
    if most_bytes > max_message_bytes:  # else no single record can be
        _check_record_sizes(batch, max_message_bytes)
    _check_timestamps(batch, config, now)
    if config.compacts and batch.has_keyless:
        position = list(batch.keys).index(None) if packed is None else packed.find_keyless()
        raise InvalidRecordError(
            f"{_named(position, batch)} has no key, and the topic's cleanup.policy is compact: "
            "of each key the last record is kept, so a record needs one",
            record=position,
        )
    for position, of_record in batch.headers.items() if packed is None else ():  # plain ones have keys
        for i, header in enumerate(of_record):
            if not header.key:
                raise InvalidRecordError(
                    f"header {i} of {_named(position, batch)} has no key", record=position
                )
    return batch


def _check_timestamps(batch: Batch, config: TopicConfig, now: int) -> None:
    least, most = batch.lowest_timestamp, batch.highest_timestamp
    if least < 0:
        wrong, rule = least, "it must not lie before 0 (1970)"
    elif most > now + config.timestamp_after_max_ms:
        wrong = most
        rule = (
            f"the topic's message.timestamp.after.max.ms is {config.timestamp_after_max_ms}, "
            f"and the broker's clock says {now}"
        )
    elif least < now - config.timestamp_before_max_ms:
        wrong = least
        rule = (
            f"the topic's message.timestamp.before.max.ms is {config.timestamp_before_max_ms}, "
            f"and the broker's clock says {now}"
        )
    else:
        return
    packed = batch.packed
    position = list(batch.timestamps).index(wrong) if packed is None else packed.find_stamped(wrong)
    raise InvalidRecordError(f"{_named(position, batch)} has timestamp {wrong}: {rule}", timestamp=wrong)


def _check_record_sizes(batch: Batch, max_message_bytes: int) -> None:
    if (packed := batch.packed) is None:
        for position in _large_records(batch, max_message_bytes):
            at = slice(position, position + 1)
            size = size_bytes(batch.keys[at], batch.values[at], [batch.headers.get(position, ())])
            if size > max_message_bytes:
                raise _too_large(_named(position, batch), position, size, max_message_bytes)
    elif packed.facts.record_bytes_max > max_message_bytes:
        position, size = packed.find_larger(max_message_bytes)
        raise _too_large(_named(position, batch), position, size, max_message_bytes)


def _named(position: int, batch: Batch) -> str:
    """A record as an error names it: of a batch of one, its position would only puzzle."""
    return "the record" if len(batch) == 1 else f"record {position}"


def _large_records(batch: Batch, size_bytes: int) -> Iterable[int]:
    """The positions of all records that may be larger than `size_bytes`."""
    longest = max(map(len, filter(None, batch.keys)), default=0)
    longest += max(map(len, filter(None, batch.values)), default=0)
    return range(len(batch)) if longest > size_bytes else batch.headers


def _too_large(name: str, position: int, size_bytes: int, max_message_bytes: int) -> RecordTooLargeError:
    return RecordTooLargeError(
        f"{name} has {size_bytes} bytes; the topic's max.message.bytes is {max_message_bytes}",
        record=position,
        size_bytes=size_bytes,
        max_message_bytes=max_message_bytes,
    )
