"""Batches that are made of input records: over the wire, across kills, and until their group is deleted."""

from __future__ import annotations

import pytest

from blackbox.broker_process import Broker
from blackbox.clients import (
    CALL_S_MAX,
    batch,
    connected,
    create_topic,
    error_name,
    own_topic,
    produce,
    read_all,
)
from takhin.v1 import takhin_pb2 as pb


@pytest.fixture
def stub(shared_broker):
    with connected(shared_broker.address) as stub:
        yield stub


@pytest.fixture
def came(stub, request):
    """An input topic for one test, with ten records in each of two partitions."""
    return input_topic(stub, own_topic(stub, f"{request.node.name}-in", 2))


@pytest.fixture
def topic(stub, request):
    """An output topic for one test, named after the test."""
    return own_topic(stub, request.node.name, 2)


def input_topic(stub, name):
    for partition in range(2):
        produce(stub, name, [b"%d" % n for n in range(10)], partition=partition)
    return name


def made(topic, came, offset, *, group_id="g", partition=0, value=b"v", **fields):
    """A request for a batch of one record that was made of one of the input's partition 0."""
    request = batch(topic, [value], partition=partition)
    request.source.MergeFrom(pb.SourceOffset(group_id=group_id, topic=came, offset=offset))
    request.MergeFrom(pb.ProduceMessageRequest(**fields))
    return request


def answers(stub, kind, requests):
    """(offset, duplicate) of each request, sent one after the other, or all at once on a stream."""
    if kind == "stream":
        responses = list(stub.ProduceMessageStream(iter(requests), timeout=CALL_S_MAX))
    else:
        responses = [stub.ProduceMessage(request, timeout=CALL_S_MAX) for request in requests]
    assert [response.error for response in responses] == [""] * len(requests)
    return [(response.offset, response.duplicate) for response in responses]


def committed(stub, group_id, came):
    offsets = [pb.TopicPartitionOffset(topic=came, offset=1)]
    request = pb.CommitOffsetRequest(group_id=group_id, offsets=offsets)
    assert stub.CommitOffset(request, timeout=CALL_S_MAX).success


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_an_output_is_stored_once(stub, came, topic, kind):
    """What is at or below the highest offset taken is a duplicate without an offset, in each partition."""
    offsets = (0, 3, 3, 1, 4)
    sent = [made(topic, came, n, partition=to, value=b"%d" % n) for to in range(2) for n in offsets]
    assert answers(stub, kind, sent) == [(0, False), (1, False), (-1, True), (-1, True), (2, False)] * 2
    for partition in range(2):
        assert [record.value for record in read_all(stub, topic, partition)] == [b"0", b"3", b"4"]
    repeated = stub.ProduceMessage(made(topic, came, 4), timeout=CALL_S_MAX)
    assert (repeated.timestamp, repeated.record_count, repeated.partition) == (-1, 1, 0)


def test_without_waiting_for_the_disk(stub, came, topic):
    """With required_acks 0 nobody is told, and it is stored once all the same."""
    for _ in range(3):
        response = stub.ProduceMessage(made(topic, came, 5, required_acks=0), timeout=CALL_S_MAX)
        assert (response.offset, response.duplicate, response.error) == (-1, False, "")
    assert answers(stub, "unary", [made(topic, came, 5)]) == [(-1, True)]
    assert len(read_all(stub, topic, 0)) == 1


def test_an_input_that_was_made_anew(stub, came, topic):
    """Its records are other ones; what was read of the former one is refused where the log is named."""
    described = stub.GetTopic(pb.GetTopicRequest(name=came), timeout=CALL_S_MAX).topic
    of = pb.SourceOffset(incarnation_id=described.partitions[0].incarnation_id)
    assert answers(stub, "unary", [made(topic, came, 9, source=of)] * 2) == [(0, False), (-1, True)]
    assert stub.DeleteTopic(pb.DeleteTopicRequest(name=came), timeout=CALL_S_MAX).success
    refused = stub.ProduceMessage(made(topic, came, 9), timeout=CALL_S_MAX)
    assert error_name(refused) == "UNKNOWN_TOPIC"
    create_topic(stub, came, 2)
    input_topic(stub, came)
    refused = stub.ProduceMessage(made(topic, came, 9, source=of), timeout=CALL_S_MAX)
    assert error_name(refused) == "LOG_REPLACED"
    assert answers(stub, "unary", [made(topic, came, 9)]) == [(1, False)]


def test_a_deleted_group_is_forgotten(stub, came, topic):
    """A group of the same name begins again; other groups are not touched."""
    for group_id in ("a", "b"):
        committed(stub, group_id, came)
        assert answers(stub, "unary", [made(topic, came, 9, group_id=group_id)])[0][1] is False
    deleted = stub.DeleteConsumerGroup(pb.DeleteConsumerGroupRequest(group_id="a"), timeout=CALL_S_MAX)
    assert deleted.success
    assert answers(stub, "unary", [made(topic, came, 9, group_id=of) for of in "ab"]) == [
        *((2, False), (-1, True)),
    ]


def test_a_group_that_has_committed_nothing_is_forgotten(stub, came, topic):
    """It can be deleted, as the error for a source too many asks for; after that it is unknown."""
    delete = pb.DeleteConsumerGroupRequest(group_id="uncommitted")
    assert answers(stub, "unary", [made(topic, came, 9, group_id="uncommitted")]) == [(0, False)]
    assert stub.DeleteConsumerGroup(delete, timeout=CALL_S_MAX).success
    assert answers(stub, "unary", [made(topic, came, 9, group_id="uncommitted")]) == [(1, False)]
    for _ in range(2):
        some = pb.DeleteOffsetsRequest(group_id="uncommitted", topics=[came])
        deleted = stub.DeleteOffsets(some, timeout=CALL_S_MAX)
    assert error_name(deleted) == "UNKNOWN_GROUP"
    assert error_name(stub.DeleteConsumerGroup(delete, timeout=CALL_S_MAX)) == "UNKNOWN_GROUP"


WRONG = [
    ({"group_id": ""}, "INVALID_GROUP_ID", "''"),
    ({"topic": "nowhere"}, "UNKNOWN_TOPIC", "nowhere"),
    ({"topic": "a/b"}, "INVALID_TOPIC_NAME", "a/b"),
    ({"partition": 2}, "UNKNOWN_PARTITION", "2"),
    ({"partition": -1}, "UNKNOWN_PARTITION", "-1"),
    ({"offset": 10}, "OFFSET_OUT_OF_RANGE", "10"),
    ({"offset": -1}, "OFFSET_OUT_OF_RANGE", "-1"),
    ({"incarnation_id": "another"}, "LOG_REPLACED", "another one"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_source_is_refused_by_name(stub, came, topic, wrong):
    """The error repeats what is wrong, and nothing is stored."""
    fields, name, value = wrong
    request = batch(topic, [b"v"])
    request.source.CopyFrom(pb.SourceOffset(**{"group_id": "g", "topic": came} | fields))
    refused = stub.ProduceMessage(request, timeout=CALL_S_MAX)
    assert error_name(refused) == name
    assert value in refused.error
    assert (refused.offset, refused.duplicate) == (-1, False)
    assert read_all(stub, topic, 0) == []


def test_a_batch_that_is_made_of_another_names_its_partition(stub, came, topic):
    """The broker does not choose: who reads the input again has to come to the same one."""
    refused = stub.ProduceMessage(made(topic, came, 0, partition=-1), timeout=CALL_S_MAX)
    assert (error_name(refused), "source" in refused.error) == ("INVALID_ARGUMENT", True)


def test_it_is_known_after_a_kill(data_dir):
    """What was acknowledged before SIGKILL is a duplicate after it, the next one is not."""
    for taken in range(3):
        with Broker(data_dir) as broker, connected(broker.address) as stub:
            if not taken:
                create_topic(stub, "in", 2)
                create_topic(stub, "out")
                input_topic(stub, "in")
            sent = [made("out", "in", n) for n in range(taken + 1)]
            assert answers(stub, "unary", sent) == [(-1, True)] * taken + [(taken, False)]
            if taken < 2:
                broker.kill()
