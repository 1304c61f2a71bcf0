"""Records encoded by hand equal those of the generated code."""

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st

from takhin.model import Chunk, Header, Records
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.encode import consumed, encoded, varint

INT64 = st.integers(0, (1 << 63) - 1)
BYTES = (
    st.none()
    | st.binary(max_size=300)
    | st.sampled_from([bytes(127), bytes(128), bytes(4_096), bytes(20_000)])
)
HEADERS = st.lists(st.builds(Header, st.text(min_size=1, max_size=5), st.binary(max_size=5)), max_size=3)


def by_generated_code(topic, partition, chunk):
    response = pb.ConsumeMessagesResponse(topic=topic, partition=partition, high_watermark=chunk.end_offset)
    for offset, timestamp, key, value in chunk.records.rows:
        record = response.records.add(
            key=key, value=value, timestamp=timestamp, offset=offset, partition=partition
        )
        for header in chunk.records.headers.get(offset, ()):
            record.headers.add(key=header.key, value=header.value)
    return response


@given(
    topic=st.text(max_size=5),
    partition=st.integers(0, (1 << 31) - 1),
    first=INT64.filter(lambda offset: offset < (1 << 63) - 10),
    records=st.lists(st.tuples(INT64, BYTES, BYTES, HEADERS), max_size=8),
    end=INT64,
)
@example(topic="t", partition=0, first=126, records=[(0, None, b"", [])] * 4, end=130)
def test_bytes_parse_to_the_message_of_the_generated_code(topic, partition, first, records, end):
    """Every field of every record survives: absent and empty apart, headers in order, all offsets."""
    rows = [(first + i, timestamp, key, value) for i, (timestamp, key, value, _) in enumerate(records)]
    headers = {first + i: of for i, (*_, of) in enumerate(records) if of}
    chunk = Chunk(Records(rows, headers, first + len(rows)), end)
    parsed = pb.ConsumeMessagesResponse.FromString(
        asyncio.run(consumed(topic, partition, chunk, encoded(partition, chunk.records)))
    )
    assert parsed == by_generated_code(topic, partition, chunk)
    for record, (_, _, key, value) in zip(parsed.records, rows, strict=True):
        assert (record.HasField("key"), record.HasField("value")) == (key is not None, value is not None)


@given(INT64)
def test_varints_are_those_of_protobuf(number):
    """A varint equals what protobuf writes after a field's tag."""
    assert b"\x28" + varint(number) == pb.Record(offset=number).SerializeToString() or number == 0
