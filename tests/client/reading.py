"""Responses as a broker writes them, and what is read of them, as values that can be compared."""

from __future__ import annotations

from takhin.model import TopicPartition
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.encode import varint

AT = TopicPartition("t", 3)


def wire_of(records, end_offset=77):
    head = pb.ConsumeMessagesResponse(topic="t", partition=3, high_watermark=end_offset, throttled_ms=9)
    return head.SerializeToString() + b"".join(b"\x22" + varint(len(of)) + of for of in records)


def seen(unread, steps):
    """What is read of it."""
    found = [
        len(unread),
        unread.position,
        unread.after,
        unread.end_offset,
        unread.size_bytes,
        dict(unread.headers),
    ]
    for name, *args in steps:
        if name == "next":
            record = next(unread.records, None)
            found.append((record, type(record)))
        elif name == "take":
            columns = unread.take(*args)
            found.append(
                (columns.at, list(columns), list(columns.values), list(columns.headers), len(columns))
            )
        else:
            unread.clear()
        found.append((len(unread), bool(unread), unread.position, unread.after))
    return found
