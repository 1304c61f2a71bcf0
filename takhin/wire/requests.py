"""The bytes of a produce request, which a client puts together record by record.

A record costs a table look-up and one copy of its bytes. The generated code takes four times as long and
makes an object. tests/wire/test_requests.py compares both.
"""

from __future__ import annotations

from collections.abc import Sequence

from takhin.model import Source
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.compression import SMALL_BYTES, compressed
from takhin.wire.encode import (
    KEY,
    KEY_HEADS,
    SIZES_PREPARED,
    TIMESTAMP,
    VALUE,
    VALUE_HEADS,
    headers_bytes,
    varint,
)

RECORDS = b"\x32"
"""Tag of ProduceMessageRequest.records, field 6."""
RECORDS_HEADS = [RECORDS + varint(size) for size in range(SIZES_PREPARED)]
ZSTD_ACCEPTED = (pb.COMPRESSION_ZSTD,)
"""ConsumeMessagesRequest.accept of a client that reads zstd."""
COMPRESSED = b"\x68" + bytes((pb.COMPRESSION_ZSTD,)) + b"\x72"
"""ProduceMessageRequest.compression, field 13, and the tag of compressed_records, field 14."""
ONLY_VALUE_HEADS = [RECORDS + varint(len(head) + size) + head for size, head in enumerate(VALUE_HEADS)]
"""The bytes before the value of a record that has only a value, by the value's size."""


def record(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = (), timestamp: int = 0
) -> bytes:
    """One of a request's `records`. timestamp: ms since 1970; 0 leaves it to the broker's clock."""
    if value is not None and not headers and not timestamp and (size := len(value)) < SIZES_PREPARED:
        if key is None:
            return ONLY_VALUE_HEADS[size] + value
        if (key_size := len(key)) < SIZES_PREPARED:
            key_head, value_head = KEY_HEADS[key_size], VALUE_HEADS[size]
            size += len(key_head) + key_size + len(value_head)
            if size < SIZES_PREPARED:
                return b"".join((RECORDS_HEADS[size], key_head, key, value_head, value))
    parts: list[bytes] = []
    if key is not None:
        size = len(key)
        parts += (KEY_HEADS[size] if size < SIZES_PREPARED else KEY + varint(size), key)
    if value is not None:
        size = len(value)
        parts += (VALUE_HEADS[size] if size < SIZES_PREPARED else VALUE + varint(size), value)
    if headers:
        parts.append(headers_bytes(headers))
    if timestamp:
        parts.append(TIMESTAMP + varint(timestamp))
    size = sum(map(len, parts))
    head = RECORDS_HEADS[size] if size < SIZES_PREPARED else RECORDS + varint(size)
    return b"".join((head, *parts))


async def packed(records: Sequence[bytes]) -> Sequence[bytes]:
    """The fields that stand for these records, compressed if that makes them smaller.

    records: results of `record`. Raises MissingLibraryError.
    """
    size = sum(map(len, records))
    if size < SMALL_BYTES:
        return records
    frame = await compressed(b"".join(records))
    fields = (COMPRESSED, varint(len(frame)), frame)
    return fields if sum(map(len, fields)) < size else records


def produce(
    topic: str,
    partition: int,
    records: Sequence[bytes],
    *,
    producer_id: bytes = b"",
    sequence: int = 0,
    expected_offset: int | None = None,
    topic_id: str = "",
    maybe_stored_from: int | None = None,
    source: Source | None = None,
) -> bytes:
    """A ProduceMessageRequest, serialized. records: results of `record`, or `packed`. Ids: empty for none."""
    head = pb.ProduceMessageRequest(
        topic=topic,
        partition=partition,
        producer_id=producer_id,
        sequence=sequence,
        expected_offset=expected_offset,
        topic_id=topic_id,
        maybe_stored_from=maybe_stored_from,
        source=None if source is None else pb.SourceOffset(**source._asdict()),
    )
    return b"".join((head.SerializeToString(), *records))
