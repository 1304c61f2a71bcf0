"""Records read as columns equal what the generated code reads."""

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st

from takhin.model import Chunk, Header, Records
from takhin.turns import LARGE_BYTES
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert
from takhin.wire.columns import Columns, ResponseColumns, parsed_again
from takhin.wire.encode import consumed, encoded, varint

BYTES = st.none() | st.binary(max_size=200)
HEADERS = st.lists(
    st.builds(pb.RecordHeader, key=st.text(max_size=3), value=st.binary(max_size=3)), max_size=2
)
RECORD = st.builds(
    pb.Record,
    key=BYTES,
    value=BYTES,
    headers=HEADERS,
    timestamp=st.integers(-(1 << 63), (1 << 63) - 1) | st.just(0),
    offset=st.integers(0, 300),
    partition=st.integers(0, 300),
).map(pb.Record.SerializeToString)

FULL = pb.Record(key=b"k", value=b"v", timestamp=5).SerializeToString()
ODD = (
    FULL + pb.Record(key=b"twice").SerializeToString(),
    pb.Record(value=b"1").SerializeToString() + pb.Record(value=b"2").SerializeToString(),
    b"\x22\x02\x01\x02" + FULL,  # field 4, timestamp, as a packed list, which it is not
    b"\x22\x01\xff" + FULL,  # the same, and what is in it is no number
    b"\x08\x01" + FULL,  # field 1, key, as a number
    b"\xa2\x06\x01x" + FULL,  # field 100, unknown
    b"",
)
"""Records that no generated code would write, but that a client may send."""


def wire(records):
    return b"".join(b"\x32" + varint(len(record)) + record for record in records)


def by_generated_code(records):
    return (
        [record.key if record.HasField("key") else None for record in records],
        [record.value if record.HasField("value") else None for record in records],
        [record.timestamp for record in records],
        {i: [(h.key, h.value) for h in of.headers] for i, of in enumerate(records) if of.headers},
    )


@given(st.lists(RECORD | st.sampled_from(ODD), min_size=1, max_size=12), st.text(max_size=3))
@example([FULL] * 3, "")
@example([FULL, ODD[3]], "")
@example([ODD[0], b"\x12\x01v"], "")  # two keys in one, none in the other
@example([pb.Record(key=b"k").SerializeToString(), pb.Record(value=b"v").SerializeToString()], "")
@example([ODD[2], b"\x22\x01\x07" + FULL], "")
def test_columns_are_the_fields_of_the_records(records, topic):
    """Keys, values, timestamps and headers equal those of the generated code, whatever arrives."""
    request = pb.ProduceMessageRequest.FromString(
        pb.ProduceMessageRequest(topic=topic).SerializeToString() + wire(records)
    )
    expected = by_generated_code(request.records)
    again = request.SerializeToString()
    columns = Columns(request, again, parsed_again(request, again))
    assert (list(columns.keys), list(columns.values), list(columns.timestamps), columns.headers) == expected
    assert columns.size_bytes == len(again)
    large = asyncio.run(convert.batch(request, LARGE_BYTES + 1, lambda *_: None))
    assert (large.keys, large.values, large.timestamps, large.headers) == expected


ROW = st.tuples(st.integers(0, 1 << 40) | st.just(0), BYTES, BYTES)
ALL_HEADERS = st.dictionaries(
    st.integers(0, 11), st.lists(st.builds(Header, st.text(min_size=1), st.binary()), min_size=1, max_size=2)
)


@given(st.lists(ROW, max_size=12), ALL_HEADERS, st.integers(0, 1 << 40))
@example([(5, b"k", b"v")] * 3, {}, 0)
@example([(5, b"k", None), (5, None, b"v")], {}, 0)
@example([(0, None, None)], {0: [Header("h", b"")]}, 1 << 20)
def test_columns_of_a_response_are_what_the_broker_wrote(rows, headers, first):
    """Offsets, timestamps, keys, values and headers survive, None apart from empty."""
    numbered = [(first + i, *row) for i, row in enumerate(rows)]
    of_rows = {i: of for i, of in headers.items() if i < len(rows)}
    records = Records(numbered, {first + i: of for i, of in of_rows.items()}, first + len(rows))
    columns = ResponseColumns(asyncio.run(consumed("t", 0, Chunk(records, 77), encoded(0, records))))
    came = zip(columns.offsets, columns.timestamps, columns.keys, columns.values, strict=True)
    assert list(came) == numbered
    assert (columns.headers, columns.end_offset) == (of_rows, 77)
