"""The shape of a produce message, whoever converts it."""

import pytest

from takhin.errors import InvalidBatchError
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
