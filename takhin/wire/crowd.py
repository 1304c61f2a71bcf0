"""Whether a request has far more fields than any may have, found out before protobuf makes objects of them.

Protobuf takes 0.2 µs and 60 bytes for an empty record, which is two bytes on the wire: 10 MiB of them would
occupy the event loop for a second. So the bytes of a large request are looked at first. A sample says whether
there can be that many. Only then are the fields counted, one after the other and up to the bound.
(The encoding: protobuf.dev/programming-guides/encoding.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import islice
from random import randrange

from takhin.limits import METADATA_BYTES_MAX
from takhin.settings import Settings
from takhin.turns import others_turn

SMALL_BYTES = 64 << 10
"""A request of this size is parsed in a few ms, whatever is in it. Few methods need a larger one."""
NAMED_BYTES = 512
"""One element with the name of a topic takes less, whatever its other fields are."""
STRIDES = {1 << 20: (127, 131), 1 << 22: (509, 521)}
"""By size, one byte in so many is looked at. A field that recurs at multiples of one stride is found by the
other, unless it recurs at multiples of both, and then there are not many."""
STRIDES_OF_LARGER = (1_021, 1_031)
FEW = 50_000
"""So many elements are parsed in a few ms. In random bytes, 12 MiB have as many that look like a tag."""
AT_ONCE = 2_000
"""Fields that are counted in one turn of the event loop: it takes 1 to 4 ms."""
SPARE = 64
"""Fields that a message may have besides those that are bounded."""
RECORD_FIELDS = 10
"""More than a record is, with its key, value, timestamp, offset and partition."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types. The two others begin and end a group, which proto3 does not have."""

RECORDS, RECORD, HEADERS = 0x32, 0x1A, 0x1A
"""Tags of ProduceMessageRequest.records and .record, and of Record.headers."""


JOIN, HEARTBEAT, SUBSCRIBE, OWNED = 0x0A, 0x12, 0x1A, 0x12
"""Tags of MemberRequest's fields that have elements, and of Heartbeat.owned."""
MEMBER_ELEMENTS = (0x32, 0x5A, 0x0A)
"""Tags of elements: Join.topics, Join.owned, and both OwnedPartitions.partitions and Subscribe.topics."""

Refuse = Callable[[bytes], Awaitable[str | None]]
"""Says why a request of more than SMALL_BYTES is refused; None if it is not. Others have turns meanwhile."""


async def too_large(wire: bytes) -> str | None:
    """What is refused of the methods that `bounds` does not name."""
    return _over(SMALL_BYTES, wire)


def _over(bytes_max: int, wire: bytes) -> str | None:
    return f"a request of this method has at most {bytes_max} bytes" if len(wire) > bytes_max else None


def bounds(settings: Settings) -> Mapping[str, Refuse]:
    """By method, what is refused before it is parsed."""
    produce, groups = settings.produce, settings.groups

    async def of_records(wire: bytes) -> str | None:
        frequent = _frequent(wire, RECORDS, HEADERS)
        if RECORDS in frequent and await _has_more(wire, produce.batch_records_max):
            return f"a batch has at most {produce.batch_records_max} records"
        if HEADERS in frequent:
            return await _too_many_headers(wire, produce.batch_headers_max, produce.batch_records_max)
        return None

    def of_fields(name: str, tag: int, most: int, element_bytes: int = NAMED_BYTES) -> Refuse:
        async def refuse(wire: bytes) -> str | None:
            if await too_many_fields(wire, tag, most):
                return f"a request has at most {most} {name}"
            return _over(SMALL_BYTES + element_bytes * most, wire)

        return refuse

    async def of_members(wire: bytes) -> str | None:
        most = groups.topics_max + settings.topics.partitions_max
        if _frequent(wire, *MEMBER_ELEMENTS) and await _counts_more(_member_tags(wire), most):
            return f"a request of a member has at most {most} topics and partitions"
        return _over(SMALL_BYTES + NAMED_BYTES * most, wire)

    offsets_max, times_max = groups.commit_offsets_max, settings.consume.time_queries_max
    return {
        "ProduceMessage": of_records,
        "ProduceMessageStream": of_records,
        "CommitOffset": of_fields("offsets", 0x12, offsets_max, NAMED_BYTES + METADATA_BYTES_MAX),
        "GetCommittedOffsets": of_fields("offsets", 0x12, offsets_max),
        "GetOffsetsForTimes": of_fields("queries", 0x0A, times_max),
        "DeleteOffsets": of_fields("topics", 0x12, offsets_max),
        "JoinConsumerGroup": of_members,
        "DescribeTopics": of_fields("topics", 0x0A, settings.topics.partitions_max),
    }


async def too_many_fields(wire: bytes, tag: int, most: int) -> bool:
    """True if the message has more than `most` fields, of which many may have this tag."""
    return bool(_frequent(wire, tag)) and await _has_more(wire, most)


async def _has_more(wire: bytes, most: int) -> bool:
    """True if the message has more than `most` fields, and some to spare."""
    return await _counts_more(_fields(wire, 0, len(wire)), most)


async def _counts_more(fields: Iterator[object], most: int) -> bool:
    count = 0
    while found := sum(1 for _ in islice(fields, AT_ONCE)):
        count += found
        if count > most + SPARE:
            return True
        await others_turn()
    return False


async def _too_many_headers(wire: bytes, headers_max: int, records_max: int) -> str | None:
    """Why a produce request is refused whose records may have too many headers together."""
    tags = _produce_tags(wire)
    fields_max = RECORD_FIELDS * records_max + SPARE
    headers = fields = 0
    while some := list(islice(tags, AT_ONCE)):
        headers += some.count(HEADERS)
        fields += len(some)
        if headers > headers_max:
            return f"a batch has at most {headers_max} headers"
        if fields - headers > fields_max:
            return f"a produce request has at most {fields_max} fields besides headers, records included"
        await others_turn()
    return None


def _produce_tags(wire: bytes) -> Iterator[int]:
    """The tags of the fields of all records; 0 for each field of the request itself."""
    for tag, start, end in _fields(wire, 0, len(wire)):
        yield 0
        if tag in (RECORDS, RECORD):
            for found in _fields(wire, start, end):
                yield found[0]


def _member_tags(wire: bytes) -> Iterator[int]:
    """The tags of all fields of a member's request, of its parts included."""
    for tag, start, end in _fields(wire, 0, len(wire)):
        yield tag
        if tag not in (JOIN, HEARTBEAT, SUBSCRIBE):
            continue
        for inner, inner_start, inner_end in _fields(wire, start, end):
            yield inner
            if tag == HEARTBEAT and inner == OWNED:
                yield from (found for found, _, _ in _fields(wire, inner_start, inner_end))


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
