"""What is meant for one incarnation of a topic or of a log, after another one has taken its name."""

from __future__ import annotations

import grpc
import pytest

from blackbox.clients import CALL_S_MAX, error_name, refusal
from takhin.v1 import takhin_pb2 as pb


@pytest.fixture
def former(stub):
    """A topic's description; it has since been deleted and created again, with as many records."""
    found = [created(stub) for _ in range(2)]
    return found[0]


def created(stub):
    stub.DeleteTopic(pb.DeleteTopicRequest(name="t"), timeout=CALL_S_MAX)
    assert stub.CreateTopic(pb.CreateTopicRequest(name="t"), timeout=CALL_S_MAX).success
    assert not produce(stub).error
    return described(stub)


def described(stub):
    return stub.GetTopic(pb.GetTopicRequest(name="t"), timeout=CALL_S_MAX).topic


def produce(stub, topic_id=""):
    records = [pb.Record(value=b"%d" % number) for number in range(10)]
    request = pb.ProduceMessageRequest(topic="t", records=records, topic_id=topic_id)
    return stub.ProduceMessage(request, timeout=CALL_S_MAX)


def commit(stub, *offsets):
    request = pb.CommitOffsetRequest(group_id="g")
    for offset, incarnation_id in offsets:
        request.offsets.add(topic="t", offset=offset, incarnation_id=incarnation_id)
    return stub.CommitOffset(request, timeout=CALL_S_MAX)


def committed(stub):
    request = pb.GetCommittedOffsetsRequest(group_id="g")
    return [of.offset for of in stub.GetCommittedOffsets(request, timeout=CALL_S_MAX).offsets]


def test_a_commit_for_the_former_log_is_not_taken(stub, former):
    """A commit that names the former incarnation is LOG_REPLACED; the present one or none are taken."""
    refused = commit(stub, (7, former.partitions[0].incarnation_id))
    assert (refused.success, error_name(refused)) == (False, "LOG_REPLACED")
    assert committed(stub) == []
    assert commit(stub, (3, described(stub).partitions[0].incarnation_id)).success
    assert committed(stub) == [3]
    assert commit(stub, (4, "")).success
    assert committed(stub) == [4]


def test_records_for_the_former_topic_are_not_stored(stub, former):
    """Records that name the former topic_id are LOG_REPLACED, also in a stream; the present one is taken."""
    assert error_name(produce(stub, former.topic_id)) == "LOG_REPLACED"
    requests = [
        pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b""), topic_id=topic_id)
        for topic_id in (former.topic_id, described(stub).topic_id, "")
    ]
    answers = list(stub.ProduceMessageStream(iter(requests), timeout=CALL_S_MAX))
    assert [(error_name(of), of.offset) for of in answers] == [("LOG_REPLACED", -1), ("", 10), ("", 11)]


def test_offsets_of_the_former_log_are_not_read(stub, former):
    """A consume call that names the former incarnation fails; with the present one or none it reads."""

    def read(incarnation_id):
        request = pb.ConsumeMessagesRequest(
            topic="t", offset=5, stop_at_end=True, incarnation_id=incarnation_id
        )
        return [r.offset for of in stub.ConsumeMessages(request, timeout=CALL_S_MAX) for r in of.records]

    with pytest.raises(grpc.RpcError) as raised:
        read(former.partitions[0].incarnation_id)
    failed = refusal(raised.value)
    assert (failed.code, failed.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LOG_REPLACED")
    now = described(stub).partitions[0].incarnation_id
    assert failed.details["incarnation_id"] == now
    assert read(now) == read("") == [5, 6, 7, 8, 9]


def test_a_very_long_id_is_not_repeated(stub, former):
    """The refusal of an id of a megabyte is a short sentence."""
    assert len(produce(stub, "x" * (1 << 20)).error) < 500
