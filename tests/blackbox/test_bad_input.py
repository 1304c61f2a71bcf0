"""Bad input of each kind gets a named error that repeats the offending value, and has no other effect."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

import grpc
import pytest

from blackbox.clients import CALL_S_MAX, CHANNEL_OPTIONS, create_topic, error_name, produce, refusal
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

MESSAGE_BYTES_MAX = 10 << 20
FAR_AHEAD_MS = 4_102_444_800_000  # the year 2100
LONG = "x" * 10_240


class Victim(NamedTuple):
    """A broker under bad input, one connection to it, and the states that the connection went through."""

    channel: grpc.Channel
    stub: TakhinServiceStub
    states: list[grpc.ChannelConnectivity]


@pytest.fixture(scope="module")
def victim(shared_broker):
    states: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(shared_broker.address, options=CHANNEL_OPTIONS) as channel:
        channel.subscribe(states.append, try_to_connect=True)
        stub = TakhinServiceStub(channel)
        create_topic(stub, "good", 3)
        create_topic(stub, "small", max_message_bytes="100")
        produce(stub, "good", [b"0", b"1", b"2"])
        assert commit(stub, ("good", 0, 2)).success
        yield Victim(channel, stub, states)
        channel.unsubscribe(states.append)


def commit(stub, *offsets, group_id="group"):
    named = [
        pb.TopicPartitionOffset(topic=topic, partition=partition, offset=offset)
        for topic, partition, offset in offsets
    ]
    return stub.CommitOffset(pb.CommitOffsetRequest(group_id=group_id, offsets=named), timeout=CALL_S_MAX)


def everything(stub):
    """Everything that a client can see, but for the sizes of files: a refusal may take a commit."""
    topics = stub.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S_MAX).topics
    request = pb.DescribeTopicsRequest(topics=topics, without_sizes=True)
    described = stub.DescribeTopics(request, timeout=CALL_S_MAX)
    groups = stub.ListConsumerGroups(pb.ListConsumerGroupsRequest(), timeout=CALL_S_MAX)
    committed = [
        stub.GetCommittedOffsets(pb.GetCommittedOffsetsRequest(group_id=g.group_id), timeout=CALL_S_MAX)
        for g in groups.groups
    ]
    return described, groups, committed


@pytest.fixture
def undisturbed(victim):
    """Check that the test changes nothing and that its connection is never lost."""
    before = everything(victim.stub)
    del victim.states[:]
    yield
    assert everything(victim.stub) == before
    assert set(victim.states) <= {grpc.ChannelConnectivity.READY}


def produce_request(topic="good", partition=0, **fields):
    if not {"record", "records"} & fields.keys():
        fields["record"] = pb.Record(value=b"v")
    return pb.ProduceMessageRequest(topic=topic, partition=partition, **fields)


def record(**fields):
    return pb.Record(**{"value": b"v"} | fields)


def committing(*offsets, group_id="group", metadata=""):
    named = [
        pb.TopicPartitionOffset(topic=t, partition=p, offset=o, metadata=metadata) for t, p, o in offsets
    ]
    return pb.CommitOffsetRequest(group_id=group_id, offsets=named)


BAD_NAMES = {
    "empty": "",
    "parent": "..",
    "itself": ".",
    "path": "../../etc/passwd",
    "nul": "a\x00b",
    "line-end": "good\n",
    "long": "n" * 250,
    "very-long": LONG,
    "reserved": "__offsets",
    "unicode": "тема",
    "space": "a b",
}

CREATE = {
    **{
        f"name-{kind}": (pb.CreateTopicRequest(name=n), "INVALID_TOPIC_NAME", n)
        for kind, n in BAD_NAMES.items()
    },
    "exists": (pb.CreateTopicRequest(name="good"), "TOPIC_EXISTS", "good"),
    "replication": (pb.CreateTopicRequest(name="n", replication_factor=3), "UNSUPPORTED_REPLICATION", "3"),
    "replication-negative": (
        pb.CreateTopicRequest(name="n", replication_factor=-7),
        "INVALID_ARGUMENT",
        "-7",
    ),
    "partitions": (pb.CreateTopicRequest(name="n", num_partitions=1_000_001), "INVALID_ARGUMENT", "1000001"),
    "config-key": (
        pb.CreateTopicRequest(name="n", configs={"retenshun.ms": "1"}),
        "INVALID_CONFIG",
        "retenshun.ms",
    ),
    "config-later": (
        pb.CreateTopicRequest(name="n", configs={"segment.bytes": "1"}),
        "INVALID_CONFIG",
        "segment.bytes",
    ),
    "config-word": (
        pb.CreateTopicRequest(name="n", configs={"max.message.bytes": "ten"}),
        "INVALID_CONFIG",
        "ten",
    ),
    "config-minus": (
        pb.CreateTopicRequest(name="n", configs={"max.message.bytes": "-1"}),
        "INVALID_CONFIG",
        "-1",
    ),
    "config-huge": (
        pb.CreateTopicRequest(name="n", configs={"max.message.bytes": "99999999999"}),
        "INVALID_CONFIG",
        "99999999999",
    ),
    "config-type": (
        pb.CreateTopicRequest(name="n", configs={"message.timestamp.type": "Yesterday"}),
        "INVALID_CONFIG",
        "Yesterday",
    ),
}


def times(topic, partition=0, timestamp=0, count=1):
    asked = pb.TopicPartitionTime(topic=topic, partition=partition, timestamp=timestamp)
    return pb.GetOffsetsForTimesRequest(queries=[asked] * count)


UNKNOWN_TOPIC = {
    f"{method}-{kind}": (request_class(**{field: name}), {"UNKNOWN_TOPIC", "INVALID_TOPIC_NAME"}, name)
    for method, request_class, field in (
        ("DeleteTopic", pb.DeleteTopicRequest, "name"),
        ("GetTopic", pb.GetTopicRequest, "name"),
        ("GetPartitionOffsets", pb.GetPartitionOffsetsRequest, "topic"),
        ("CompactTopic", pb.CompactTopicRequest, "name"),
        ("DeleteRecords", pb.DeleteRecordsRequest, "topic"),
    )
    for kind, name in (BAD_NAMES | {"unknown": "nowhere"}).items()
}


ID = bytes(range(16))
CONDITIONS = {
    "producer-short": (produce_request(producer_id=ID[1:]), "INVALID_ARGUMENT", "15"),
    "producer-long": (produce_request(producer_id=ID + b"x"), "INVALID_ARGUMENT", "17"),
    "producer-anywhere": (produce_request(producer_id=ID, partition=-1), "INVALID_ARGUMENT", "-1"),
    "producer-elsewhere": (produce_request(producer_id=ID, partition=3), "UNKNOWN_PARTITION", "3"),
    "producer-gap": (produce_request(producer_id=ID, sequence=5), "OUT_OF_SEQUENCE", "5"),
    "sequence-negative": (produce_request(producer_id=ID, sequence=-5), "INVALID_ARGUMENT", "-5"),
    "sequence-of-nobody": (produce_request(sequence=5), "INVALID_ARGUMENT", "5"),
    "sequence-beyond": (
        produce_request(producer_id=ID, sequence=(1 << 63) - 1),
        "INVALID_ARGUMENT",
        str((1 << 63) - 1),
    ),
    "expected-negative": (produce_request(expected_offset=-5), "INVALID_ARGUMENT", "-5"),
    "expected-anywhere": (produce_request(expected_offset=0, partition=-1), "INVALID_ARGUMENT", "-1"),
    "expected-earlier": (produce_request(expected_offset=2), "END_OFFSET_MISMATCH", "2"),
    "expected-later": (produce_request(expected_offset=4), "END_OFFSET_MISMATCH", "4"),
}

PRODUCE = {
    "topic-unknown": (produce_request("nowhere"), "UNKNOWN_TOPIC", "nowhere"),
    "topic-empty": (produce_request(""), {"UNKNOWN_TOPIC", "INVALID_TOPIC_NAME"}, "''"),
    "topic-path": (produce_request("../small"), {"UNKNOWN_TOPIC", "INVALID_TOPIC_NAME"}, "../small"),
    "topic-long": (produce_request(LONG), {"UNKNOWN_TOPIC", "INVALID_TOPIC_NAME"}, LONG),
    "partition-past": (produce_request(partition=3), "UNKNOWN_PARTITION", "3"),
    "partition-negative": (produce_request(partition=-2), "UNKNOWN_PARTITION", "-2"),
    "partition-huge": (produce_request(partition=2**31 - 1), "UNKNOWN_PARTITION", str(2**31 - 1)),
    "both": (produce_request(record=record(), records=[record()]), "INVALID_BATCH", "records"),
    "neither": (pb.ProduceMessageRequest(topic="good"), "INVALID_BATCH", "record"),
    "too-large": (produce_request("small", record=record(value=bytes(101))), "RECORD_TOO_LARGE", "101"),
    "too-large-in-batch": (
        produce_request("small", records=[record(), record(key=bytes(60), value=bytes(41))]),
        "RECORD_TOO_LARGE",
        "101",
    ),
    "header-key": (
        produce_request(records=[record(), record(headers=[pb.RecordHeader(value=b"h")])]),
        "INVALID_RECORD",
        "1",
    ),
    "before-1970": (produce_request(record=record(timestamp=-1)), "INVALID_RECORD", "-1"),
    "before-1970-in-batch": (
        produce_request(records=[record(), record(timestamp=-(2**63))]),
        "INVALID_RECORD",
        str(-(2**63)),
    ),
    "far-ahead": (
        produce_request(record=record(timestamp=FAR_AHEAD_MS)),
        "INVALID_RECORD",
        str(FAR_AHEAD_MS),
    ),
    "acks": (produce_request(required_acks=2), "INVALID_ARGUMENT", "2"),
    "acks-negative": (produce_request(required_acks=-2), "INVALID_ARGUMENT", "-2"),
    "timeout": (produce_request(timeout_ms=-5), "INVALID_ARGUMENT", "-5"),
}

GROUPS = {
    "commit-past-the-end": (committing(("good", 0, 4)), "OFFSET_OUT_OF_RANGE", "4"),
    "commit-negative": (committing(("good", 0, -1)), "OFFSET_OUT_OF_RANGE", "-1"),
    "commit-one-of-two": (committing(("good", 0, 3), ("good", 1, 9)), "OFFSET_OUT_OF_RANGE", "9"),
    "commit-topic": (committing(("good", 0, 3), ("nowhere", 0, 0)), "UNKNOWN_TOPIC", "nowhere"),
    "commit-partition": (committing(("good", 0, 3), ("good", 3, 0)), "UNKNOWN_PARTITION", "3"),
    "commit-metadata": (committing(("good", 0, 3), metadata="m" * 4_097), "INVALID_ARGUMENT", "4097"),
    "commit-group-empty": (committing(("good", 0, 3), group_id=""), "INVALID_GROUP_ID", "''"),
    "commit-group-long": (committing(("good", 0, 3), group_id=LONG), "INVALID_GROUP_ID", "10240"),
    "commit-group-256-bytes": (committing(("good", 0, 3), group_id="ж" * 128), "INVALID_GROUP_ID", "256"),
    "describe-unknown": (pb.DescribeConsumerGroupRequest(group_id="nobody"), "UNKNOWN_GROUP", "nobody"),
    "describe-empty": (pb.DescribeConsumerGroupRequest(group_id=""), "INVALID_GROUP_ID", "''"),
    "describe-long": (pb.DescribeConsumerGroupRequest(group_id=LONG), "INVALID_GROUP_ID", "10240"),
    "delete-unknown": (pb.DeleteConsumerGroupRequest(group_id="nobody"), "UNKNOWN_GROUP", "nobody"),
    "delete-empty": (pb.DeleteConsumerGroupRequest(group_id=""), "INVALID_GROUP_ID", "''"),
    "delete-long": (pb.DeleteConsumerGroupRequest(group_id=LONG), "INVALID_GROUP_ID", "10240"),
    "committed-empty": (pb.GetCommittedOffsetsRequest(group_id=""), "INVALID_GROUP_ID", "''"),
    "committed-long": (pb.GetCommittedOffsetsRequest(group_id=LONG), "INVALID_GROUP_ID", "10240"),
    "committed-topic": (
        pb.GetCommittedOffsetsRequest(group_id="group", partitions=[pb.TopicPartition(topic="nowhere")]),
        "UNKNOWN_TOPIC",
        "nowhere",
    ),
}

OTHER = {
    "trim-partition": (pb.DeleteRecordsRequest(topic="good", partition=-1), "UNKNOWN_PARTITION", "-1"),
    "trim-below": (pb.DeleteRecordsRequest(topic="good", before_offset=-2), "INVALID_ARGUMENT", "-2"),
    "trim-past": (pb.DeleteRecordsRequest(topic="good", before_offset=99), "OFFSET_OUT_OF_RANGE", "99"),
    "times-topic": (times("nowhere", 0), "UNKNOWN_TOPIC", "nowhere"),
    "times-partition": (times("good", 9), "UNKNOWN_PARTITION", "9"),
    "times-negative": (times("good", 0, -1), "INVALID_ARGUMENT", "-1"),
    "times-many": (times("good", count=1_001), "INVALID_ARGUMENT", "1001"),
    "offsets-partition": (
        pb.GetPartitionOffsetsRequest(topic="good", partition=-1),
        "UNKNOWN_PARTITION",
        "-1",
    ),
}


def says(sentence, value):
    """True if the sentence repeats the value: unchanged, escaped, or the beginning of a very long one."""
    return any(shown in sentence for shown in (value[:60], ascii(value[:60])[1:-1]))


def cases(table):
    return [pytest.param(*row, id=kind) for kind, row in table.items()]


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(
    ("request_", "names", "value"), cases(CREATE | UNKNOWN_TOPIC | PRODUCE | CONDITIONS | GROUPS | OTHER)
)
def test_the_error_in_the_response_is_named(victim, request_, names, value):
    """A response with an error field has status OK, an error code, and the value in the sentence."""
    method = re.sub("Request$", "", type(request_).__name__)
    response = getattr(victim.stub, method)(request_, timeout=CALL_S_MAX)
    assert error_name(response) in ({names} if isinstance(names, str) else names), response.error
    assert says(response.error, value), response.error
    assert len(response.error) < 1_000
    if "success" in response.DESCRIPTOR.fields_by_name:
        assert not response.success
    if "offset" in response.DESCRIPTOR.fields_by_name:
        assert response.offset == -1


INVALID = grpc.StatusCode.INVALID_ARGUMENT

CONSUME = {
    "topic": ({"topic": "nowhere"}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_TOPIC", "nowhere"),
    "topic-path": ({"topic": "../good"}, INVALID, "INVALID_TOPIC_NAME", "../good"),
    "topic-empty": ({"topic": ""}, INVALID, "INVALID_TOPIC_NAME", ""),
    "topic-unicode": ({"topic": "тема\n\x00"}, INVALID, "INVALID_TOPIC_NAME", "тема\n\x00"),
    "topic-long": ({"topic": LONG}, INVALID, "INVALID_TOPIC_NAME", LONG),
    "partition": ({"partition": 3}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_PARTITION", "3"),
    "partition-negative": ({"partition": -1}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_PARTITION", "-1"),
    "offset-past": ({"offset": 4}, grpc.StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE", "4"),
    "offset-huge": (
        {"offset": 2**63 - 1},
        grpc.StatusCode.OUT_OF_RANGE,
        "OFFSET_OUT_OF_RANGE",
        str(2**63 - 1),
    ),
    "offset-negative": ({"offset": -3}, INVALID, "INVALID_ARGUMENT", "-3"),
    "max-bytes": ({"max_bytes": -1}, INVALID, "INVALID_ARGUMENT", "-1"),
    "min-bytes": ({"min_bytes": -2}, INVALID, "INVALID_ARGUMENT", "-2"),
    "max-wait": ({"max_wait_ms": -3}, INVALID, "INVALID_ARGUMENT", "-3"),
    "max-records": ({"max_records": -4}, INVALID, "INVALID_ARGUMENT", "-4"),
    "stop-offset": ({"stop_offset": -5}, INVALID, "INVALID_ARGUMENT", "-5"),
    "start-timestamp": ({"start_timestamp": -6}, INVALID, "INVALID_ARGUMENT", "-6"),
}


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(("fields", "code", "reason", "value"), cases(CONSUME))
def test_the_error_of_a_consume_call_is_its_status(victim, fields, code, reason, value):
    """ConsumeMessages refuses by status, with google.rpc.ErrorInfo of domain takhin."""
    request = pb.ConsumeMessagesRequest(**{"topic": "good", "offset": -1} | fields)
    with pytest.raises(grpc.RpcError) as caught:
        next(victim.stub.ConsumeMessages(request, timeout=CALL_S_MAX))
    refused = refusal(caught.value)
    assert (refused.code, refused.reason, refused.domain) == (code, reason, "takhin")
    assert says(refused.sentence, value)
    assert any(value[:60] == detail[:60] for detail in refused.details.values())


@pytest.mark.usefixtures("undisturbed")
def test_unknown_names_are_left_out_of_a_description(victim):
    """DescribeTopics leaves out unknown names, however hostile, and describes the rest."""
    names = [*BAD_NAMES.values(), "nowhere", "good"]
    response = victim.stub.DescribeTopics(pb.DescribeTopicsRequest(topics=names), timeout=CALL_S_MAX)
    assert [topic.name for topic in response.topics] == ["good"]


@pytest.mark.usefixtures("undisturbed")
def test_a_request_above_the_message_limit_is_refused(victim):
    """A request above 10 MiB is RESOURCE_EXHAUSTED; one slightly below is judged as a record."""
    huge = produce_request(record=record(value=bytes(MESSAGE_BYTES_MAX + 1)))
    with pytest.raises(grpc.RpcError) as caught:
        victim.stub.ProduceMessage(huge, timeout=CALL_S_MAX)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MESSAGE_BYTES_MAX) in caught.value.details()
    below = produce_request(record=record(value=bytes(MESSAGE_BYTES_MAX - 1_024)))
    response = victim.stub.ProduceMessage(below, timeout=CALL_S_MAX)
    assert error_name(response) == "RECORD_TOO_LARGE"


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(
    "garbage", [b"\x0a\x02\xff\xfe", b"\xff" * 40, b"\x0a\x7fshort"], ids=["not-utf8", "noise", "cut-off"]
)
@pytest.mark.parametrize("method", ["CreateTopic", "ProduceMessage", "CommitOffset"])
def test_a_malformed_message_is_refused(victim, method, garbage):
    """Bytes that are no protobuf message are the client's error by name, and disturb nobody else."""
    call = victim.channel.unary_unary(f"/takhin.v1.TakhinService/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        call(garbage, timeout=CALL_S_MAX)
    refused = refusal(caught.value)
    assert (refused.code, refused.reason, refused.domain) == (INVALID, "INVALID_ARGUMENT", "takhin")


@pytest.mark.usefixtures("undisturbed")
def test_an_unknown_method_is_unimplemented(victim):
    """A method of a later version is UNIMPLEMENTED, which a client can distinguish from a failure."""
    with pytest.raises(grpc.RpcError) as caught:
        victim.channel.unary_unary("/takhin.v1.TakhinService/JoinGroup")(b"", timeout=CALL_S_MAX)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_refused_requests_do_not_end_a_produce_stream(victim):
    """A stream with refused requests gives one response each, in order, and stores the others densely."""
    create_topic(victim.stub, "streamed")
    requests, expected = [], []
    for number, (bad, names, _) in enumerate(PRODUCE.values()):
        requests += [bad, produce_request("streamed", record=record(value=b"%d" % number))]
        expected += [names if isinstance(names, set) else {names}, {""}]
    responses = list(victim.stub.ProduceMessageStream(iter(requests), timeout=CALL_S_MAX))
    assert len(responses) == len(requests)
    for request, response, names in zip(requests, responses, expected, strict=True):
        assert error_name(response) in names
        assert response.topic == request.topic[:255]  # an over-long name is not repeated in full
    good = responses[1::2]
    assert [response.offset for response in good] == list(range(len(PRODUCE)))
    assert {response.offset for response in responses[0::2]} == {-1}


def test_a_timestamp_a_little_ahead_is_taken(victim):
    """A timestamp up to a minute ahead of the broker's clock is accepted and kept, because clocks differ."""
    ahead = time.time_ns() // 1_000_000 + 60_000
    create_topic(victim.stub, "ahead")
    request = produce_request("ahead", record=record(timestamp=ahead))
    response = victim.stub.ProduceMessage(request, timeout=CALL_S_MAX)
    assert (response.error, response.timestamp) == ("", ahead)
