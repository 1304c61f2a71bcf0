"""The shape of a produce message, whoever converts it."""

import pytest

from takhin.errors import EndOffsetMismatchError, InvalidBatchError, UnknownTopicError
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert


def any_counts(_records, _headers):
    """Stands for limits that nothing exceeds."""


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (pb.ProduceMessageRequest(record=pb.Record(), records=[pb.Record()]), "both record and records"),
        (pb.ProduceMessageRequest(topic="t"), "neither record nor records"),
    ],
    ids=["both", "neither"],
)
async def test_a_produce_message_has_one_record_or_a_list(message, sentence):
    """Both and neither are refused."""
    with pytest.raises(InvalidBatchError, match=sentence):
        await convert.produce_request(message, 0, any_counts)


async def test_an_empty_record_is_a_record():
    """A record without key and value counts, alone and in a list."""
    alone = await convert.produce_request(pb.ProduceMessageRequest(record=pb.Record()), 0, any_counts)
    listed = await convert.produce_request(pb.ProduceMessageRequest(records=[pb.Record()]), 0, any_counts)
    assert [len(alone.batch), len(listed.batch)] == [1, 1]


@pytest.mark.parametrize(
    "response", [pb.ProduceMessageResponse(), pb.DeleteRecordsResponse(), pb.GetPartitionOffsetsResponse()]
)
def test_no_offset_of_a_refusal_is_a_valid_one(response):
    """Where a refused call would have answered with an offset or with ends, -1 stands; nobody reads 0."""
    refused = convert.refusal(response, {}, UnknownTopicError("t"), 10)
    fields = {"offset", "beginning_offset"} & set(response.DESCRIPTOR.fields_by_name)
    assert [getattr(refused, name) for name in fields] == [-1]
    assert refused.error == "there is no topic 't'"


def test_a_mismatch_says_where_the_log_ends():
    """The end of the log is what a refused condition is about, so it is told."""
    error = EndOffsetMismatchError("t", 0, 5, 7)
    assert convert.refusal(pb.ProduceMessageResponse(), {}, error, 21).end_offset == error.end_offset
    ends = convert.refusal(pb.GetPartitionOffsetsResponse(), {}, UnknownTopicError("t"), 10)
    assert (ends.beginning_offset, ends.end_offset) == (-1, -1)
