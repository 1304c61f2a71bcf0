"""Requests encoded by hand equal those of the generated code."""

from hypothesis import example, given
from hypothesis import strategies as st

from takhin.model import Source
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import requests

INT64 = st.integers(0, (1 << 63) - 1)
BYTES = (
    st.none()
    | st.binary(max_size=300)
    | st.sampled_from([bytes(size) for size in (0, 125, 126, 127, 128, 4_092, 4_093, 4_095, 4_096, 20_000)])
)
HEADERS = st.lists(st.tuples(st.text(min_size=1, max_size=5), st.binary(max_size=5)), max_size=3)
RECORD = st.tuples(BYTES, BYTES, HEADERS, INT64 | st.just(0))


def by_generated_code(key, value, headers, timestamp):
    record = pb.Record(key=key, value=value, timestamp=timestamp)
    for name, content in headers:
        record.headers.add(key=name, value=content)
    return record


SOURCE = st.builds(
    Source, st.text(max_size=5), st.text(max_size=5), st.integers(0, 9), INT64, st.text(max_size=5)
)


@given(
    st.lists(RECORD, min_size=1, max_size=8),
    st.text(max_size=5),
    st.none() | INT64,
    st.none() | INT64,
    st.none() | SOURCE,
)
@example([(None, bytes(4_095), (), 0), (b"", b"", (), 0)], "t", 0, 0, Source("", "", 0, 0))
def test_bytes_parse_to_the_message_of_the_generated_code(
    records, topic, expected_offset, maybe_stored_from, source
):
    """Every field survives: absent and empty apart, headers in order, the fields before the records too."""
    wire = requests.produce(
        topic,
        3,
        [requests.record(*record) for record in records],
        producer_id=bytes(16),
        sequence=7,
        expected_offset=expected_offset,
        maybe_stored_from=maybe_stored_from,
        source=source,
    )
    assert pb.ProduceMessageRequest.FromString(wire) == pb.ProduceMessageRequest(
        topic=topic,
        partition=3,
        records=[by_generated_code(*record) for record in records],
        producer_id=bytes(16),
        sequence=7,
        expected_offset=expected_offset,
        maybe_stored_from=maybe_stored_from,
        source=None if source is None else pb.SourceOffset(**source._asdict()),
    )


def test_sizes_at_the_edge_of_the_tables():
    """Where a key, a value or both just fit into the prepared heads, or do not, the bytes are the same."""
    sizes = (0, 1, 126, 127, 128, 2_040, 2_045, 2_046, 2_047, 2_048, 4_080, 4_089, 4_090, 4_091, 4_095, 4_096)
    for key in (None, *map(bytes, sizes)):
        for value in map(bytes, sizes):
            wire = requests.record(key, value)
            assert pb.ProduceMessageRequest.FromString(wire).records == [pb.Record(key=key, value=value)]
