"""The records of a produce request or a consume response as columns, cut out by protobuf's own parser.

A message object for each record, asked for its fields one by one, takes 0.5 to 0.9 µs a record and leaves
the garbage collector a thousand objects a request. Protobuf offers a way without any: where a message
field stands several times on the wire but is declared once, its occurrences are merged, and repeated
fields in them are joined (protobuf.dev/programming-guides/encoding, "Last One Wins"). So the same bytes,
read by a description in which `records` is one message whose fields are repeated, come out as one list of
keys and one of values: 0.1 µs a record. tests/wire/test_columns.py holds it against the generated code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from takhin.model import Header
from takhin.v1 import takhin_pb2 as pb

T = TypeVar("T")

Field = descriptor_pb2.FieldDescriptorProto


def _columns_class(of: type[Message], columns: Sequence[str], plain: Sequence[str] = ()) -> Any:
    """A class that reads the message `of`: some columns of its records, and some of its own plain fields."""
    file = descriptor_pb2.FileDescriptorProto(name="takhin/columns.proto", package="takhin", syntax="proto3")
    record = file.message_type.add(name="Columns")
    for name in columns:
        of_record = pb.Record.DESCRIPTOR.fields_by_name[name]
        # Headers are not parsed here: all that matters is whether there are any.
        kind = Field.TYPE_BYTES if name == "headers" else of_record.type
        record.field.add(name=name, number=of_record.number, type=kind, label=Field.LABEL_REPEATED)
    message = file.message_type.add(name="Message")
    fields = of.DESCRIPTOR.fields_by_name
    for name in plain:
        message.field.add(
            name=name, number=fields[name].number, type=fields[name].type, label=Field.LABEL_OPTIONAL
        )
    message.field.add(
        name="records",
        number=fields["records"].number,
        type=Field.TYPE_MESSAGE,
        label=Field.LABEL_OPTIONAL,
        type_name=".takhin.Columns",
    )
    pool = descriptor_pool.DescriptorPool()  # not the default one, which reflection shows
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("takhin.Message"))


ColumnsRequest = _columns_class(pb.ProduceMessageRequest, ("key", "value", "headers", "timestamp"))
ColumnsResponse = _columns_class(
    pb.ConsumeMessagesResponse,
    ("key", "value", "headers", "timestamp", "offset"),
    ("high_watermark", "compressed_records"),
)


def parsed_again(request: pb.ProduceMessageRequest, wire: bytes) -> Any:
    """The `ColumnsRequest` of a request. wire: its bytes, serialized again, not as they came.

    So a record has no field twice, and a column of the right length has one entry for each record. One field
    may be known here and not to the generated code, a timestamp in packed form, whatever its bytes are: it is
    dropped. (To look for unknown fields takes as long as both parsers.)
    """
    try:
        parsed = ColumnsRequest.FromString(wire)
    except DecodeError:
        parsed = None
    if parsed is not None and not parsed.records.timestamp:
        return parsed
    request.DiscardUnknownFields()
    known = request.SerializeToString()
    if parsed is not None and len(known) == len(wire):
        return parsed
    return ColumnsRequest.FromString(known)


class Columns:
    """The columns of a request's `records`, each as long as there are records."""

    def __init__(self, request: pb.ProduceMessageRequest, wire: bytes, parsed: Any) -> None:
        """wire: the request, serialized. parsed: what `parsed_again` has made of them."""
        found = parsed.records
        records = request.records
        self.size_bytes = len(wire)
        self.keys = _column(found.key, records, None, key_of)
        self.values = _column(found.value, records, None, value_of)
        self.timestamps = _column(found.timestamp, records, 0, _timestamp_of)
        self.headers = _headers(records) if found.headers else {}


class ResponseColumns:
    """The columns of a consume response's records, and the end offset beside them.

    wire: the bytes of a broker, which gives every record an offset and a timestamp, and no field twice.
    compressed: instead of records, the columns of which are then empty: a frame of zstd. Its content is the
    bytes of another response, with no end offset of its own.
    """

    def __init__(self, wire: bytes, end_offset: int | None = None) -> None:
        found = ColumnsResponse.FromString(wire)
        self.end_offset: int = found.high_watermark if end_offset is None else end_offset
        self.compressed: bytes = found.compressed_records
        columns = found.records
        count = len(columns.offset)
        even = {len(columns.timestamp), len(columns.key), len(columns.value)} <= {0, count}
        # If columns differ in length, the generated code is used, with a message for each record.
        records = range(count) if even and not columns.headers else _records(wire)
        self.offsets: Sequence[int] = _column(columns.offset, records, 0, _offset_of)
        self.timestamps: Sequence[int] = _column(columns.timestamp, records, 0, _timestamp_of)
        self.keys: Sequence[bytes | None] = _column(columns.key, records, None, key_of)
        self.values: Sequence[bytes | None] = _column(columns.value, records, None, value_of)
        self.headers = _headers(records) if columns.headers else {}


def _column(
    found: Sequence[T], records: Sequence[Any], absent: T | None, of: Callable[[Any], T | None]
) -> Any:
    """`found` if every record has the field; all `absent` if none has it; else the field of each record."""
    if len(found) == len(records):
        return found[:]
    if not found:
        return [absent] * len(records)
    return [of(record) for record in records]


def _records(wire: bytes) -> Sequence[pb.Record]:
    return pb.ConsumeMessagesResponse.FromString(wire).records


def _headers(records: Sequence[Any]) -> dict[int, list[Header]]:
    """Headers by position; a record without headers has no entry."""
    return {i: headers_of(record) for i, record in enumerate(records) if record.headers}


def key_of(record: pb.Record) -> bytes | None:
    return record.key if record.HasField("key") else None


def value_of(record: pb.Record) -> bytes | None:
    return record.value if record.HasField("value") else None


def headers_of(record: pb.Record) -> list[Header]:
    return [Header(header.key, header.value) for header in record.headers]


def _timestamp_of(record: pb.Record) -> int:
    return record.timestamp


def _offset_of(record: pb.Record) -> int:
    return record.offset
