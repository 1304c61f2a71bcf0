"""Sizes of records in bytes, as limits and settings count them. Knows neither the values nor the wire format.

The overheads are facts of the interface's encoding, rounded up, so none of them is a setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

RECORD_OVERHEAD_BYTES = 32
"""Bytes that a record takes in a response besides its key, value and headers, rounded up: tags, lengths,
timestamp, offset and partition as varints. A record that waits in the queue is counted with it too."""

HEADER_OVERHEAD_BYTES = 16
"""Bytes that a header takes besides its key and value, rounded up. Without it, a record of many tiny
headers could be stored that fits into no response."""

MESSAGE_ROOM_BYTES = 64 << 10
"""Bytes of a gRPC message that the largest record leaves to everything else in the message."""


def size_bytes(
    keys: Iterable[bytes | None],
    values: Iterable[bytes | None],
    headers: Iterable[Sequence[tuple[str, bytes]]],
) -> int:
    """Bytes of records as max.message.bytes counts them: keys, values, and headers with their overhead."""
    size = sum(map(len, filter(None, keys))) + sum(map(len, filter(None, values)))
    for of_record in headers:
        for key, value in of_record:
            size += HEADER_OVERHEAD_BYTES + len(key.encode()) + len(value)
    return size


def response_bytes(
    rows: Sequence[tuple[int, int, bytes | None, bytes | None]],
    headers: Mapping[int, Sequence[tuple[str, bytes]]],
) -> int:
    """Bytes that the rows and headers of a read take in a response, rounded up."""
    keys, values = (row[2] for row in rows), (row[3] for row in rows)
    return RECORD_OVERHEAD_BYTES * len(rows) + size_bytes(keys, values, headers.values())
