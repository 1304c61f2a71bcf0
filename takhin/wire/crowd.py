"""Whether a request has far more fields than any may have, found out before protobuf makes objects of them.

Protobuf takes 0.2 µs and 60 bytes for an empty record, which is two bytes on the wire: 10 MiB of them would
occupy the event loop for a second. So the bytes of a large request are looked at first. A sample says whether
there can be that many. Only then are the fields counted, one after the other and up to the bound.
(The encoding: protobuf.dev/programming-guides/encoding.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import randrange

from takhin.settings import Settings

SMALL_BYTES = 64 << 10
"""A request of this size is parsed in a few ms, whatever is in it."""
STRIDES = {1 << 18: (29, 31), 1 << 20: (127, 131), 1 << 22: (509, 521)}
"""By size, one byte in so many is looked at. A field that recurs at multiples of one stride is found by the
other, unless it recurs at multiples of both, and then there are not many."""
STRIDES_OF_LARGER = (1_021, 1_031)
FEW = 50_000
"""So many elements are parsed in a few ms. In random bytes, 12 MiB have as many that look like a tag."""
CONFIGS_MAX = 100
"""There are fewer configs."""
SPARE = 64
"""Fields that a message may have besides those that are bounded."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types. The two others begin and end a group, which proto3 does not have."""

RECORDS, RECORD, HEADERS = 0x32, 0x1A, 0x1A
"""Tags of ProduceMessageRequest.records and .record, and of Record.headers."""


Refuse = Callable[[bytes], str | None]
"""Says why a request has too many elements; None if it has not."""


def bounds(settings: Settings) -> Mapping[str, Refuse]:
    """By method, what is refused before it is parsed."""
    produce, groups = settings.produce, settings.groups

    def of_records(wire: bytes) -> str | None:
        frequent = _frequent(wire, RECORDS, HEADERS)
        if RECORDS in frequent and _has_more(wire, produce.batch_records_max):
            return f"a batch has at most {produce.batch_records_max} records"
        if HEADERS in frequent and _too_many_headers(
            wire, produce.batch_headers_max, produce.batch_records_max
        ):
            return f"a batch has at most {produce.batch_headers_max} headers"
        return None

    def of_fields(name: str, tag: int, most: int) -> Refuse:
        reason = f"a request has at most {most} {name}"
        return lambda wire: reason if too_many_fields(wire, tag, most) else None

    offsets = of_fields("offsets", 0x12, groups.commit_offsets_max)
    return {
        "ProduceMessage": of_records,
        "ProduceMessageStream": of_records,
        "CommitOffset": offsets,
        "GetCommittedOffsets": offsets,
        "DescribeTopics": of_fields("topics", 0x0A, settings.topics.partitions_max),
        "CreateTopic": of_fields("configs", 0x22, CONFIGS_MAX),
    }


def too_many_fields(wire: bytes, tag: int, most: int) -> bool:
    """True if the message has more than `most` fields, of which many may have this tag."""
    return bool(_frequent(wire, tag)) and _has_more(wire, most)


def _has_more(wire: bytes, most: int) -> bool:
    """True if the message has more than `most` fields, and some to spare."""
    return _more_than(_fields(wire, 0, len(wire)), most + SPARE)


def _too_many_headers(wire: bytes, most: int, records: int) -> bool:
    """True if the records of a produce request have more than `most` headers together.

    records: how many records it may have, which is checked before.
    """
    inner = (
        found[0]
        for tag, start, end in _fields(wire, 0, len(wire))
        if tag in (RECORDS, RECORD)
        for found in _fields(wire, start, end)
    )
    headers = 0
    for fields, tag in enumerate(inner):
        headers += tag == HEADERS
        if headers > most or fields - headers > 4 * records + SPARE:
            return True
    return False


def _frequent(wire: bytes, *tags: int) -> list[int]:
    """The tags that may stand in many places, also where they are written in more bytes than they need."""
    if len(wire) <= SMALL_BYTES:
        return []
    strides = next((of for most, of in STRIDES.items() if len(wire) <= most), STRIDES_OF_LARGER)
    samples = [wire[randrange(stride) :: stride] for stride in strides]  # noqa: S311  nobody may know which
    return [
        tag
        for tag in tags
        if any(
            sample.count(byte) * stride > FEW
            for sample, stride in zip(samples, strides, strict=True)
            for byte in (tag, tag | 0x80)
        )
    ]


def _more_than(found: Iterator[object], most: int) -> bool:
    return any(count > most for count, _ in enumerate(found, 1))


def _fields(wire: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(tag, start, end) of each field of a message; where the bytes make no sense, it ends."""
    try:
        while at < end:
            tag, at = _varint(wire, at) if wire[at] > 0x7F else (wire[at], at + 1)
            start, kind = at, tag & 7
            if kind == BYTES:
                size, start = _varint(wire, at) if wire[at] > 0x7F else (wire[at], at + 1)
                at = start + size
            elif kind == VARINT:
                _, at = _varint(wire, at)
            elif kind in (FIXED64, FIXED32):
                at += 8 if kind == FIXED64 else 4
            yield tag, start, min(at, end)
    except IndexError:
        return


def _varint(wire: bytes, at: int) -> tuple[int, int]:
    """The number at that place, and the place after it."""
    number = shift = 0
    while True:
        byte = wire[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise IndexError
