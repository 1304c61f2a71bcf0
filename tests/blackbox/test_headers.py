"""Headers count: for the size of a record, for the number of a request, and for what a read returns."""

from __future__ import annotations

import pytest

from blackbox.clients import CALL_S_MAX, consume, create_topic, error_name
from takhin.v1 import takhin_pb2 as pb

MESSAGE_BYTES_MAX = 10_000


def with_headers(count, *, value=b""):
    headers = [pb.RecordHeader(key="k", value=b"v")] * count
    return pb.Record(value=value, headers=headers)


@pytest.mark.parametrize("count", [500, 600])
def test_one_record_weighs_the_same_alone_and_in_a_batch(stub, count):
    """A record of many small headers is taken or refused by max.message.bytes, whichever way it comes."""
    name = create_topic(stub, f"weighed-{count}", max_message_bytes=str(MESSAGE_BYTES_MAX))
    record = with_headers(count)
    ways = [{"record": record}, {"records": [record]}, {"records": [record, pb.Record(value=b"v")]}]
    answers = [
        stub.ProduceMessage(pb.ProduceMessageRequest(topic=name, **way), timeout=CALL_S_MAX) for way in ways
    ]
    expected = "" if count * 18 <= MESSAGE_BYTES_MAX else "RECORD_TOO_LARGE"
    assert [error_name(answer) for answer in answers] == [expected] * 3


def test_too_many_headers_are_refused_in_words(stub):
    """One record, alone or in a batch, and one request have a bound each."""
    create_topic(stub, "bounded")
    for fields, sentence in (
        ({"record": with_headers(1_001)}, "a record has at most 1000 headers, not 1001"),
        ({"records": [with_headers(1_001)]}, "a record has at most 1000 headers, not 1001"),
        ({"records": [with_headers(1_000)] * 11}, "a batch has at most 10000 headers, not 11000"),
    ):
        answer = stub.ProduceMessage(pb.ProduceMessageRequest(topic="bounded", **fields), timeout=CALL_S_MAX)
        assert (error_name(answer), answer.error) == ("INVALID_ARGUMENT", sentence)


def test_reads_are_cut_by_headers(stub):
    """A response has at most 2,000 headers; all records come, in order."""
    create_topic(stub, "cut")
    request = pb.ProduceMessageRequest(topic="cut", records=[with_headers(1_000)] * 9)
    assert stub.ProduceMessage(request, timeout=CALL_S_MAX).record_count == 9
    responses = list(consume(stub, "cut", stop_at_end=True))
    assert [record.offset for response in responses for record in response.records] == list(range(9))
    assert all(len(response.records) <= 2 for response in responses)
