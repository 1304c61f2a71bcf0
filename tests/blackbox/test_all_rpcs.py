"""A client that knows only the published table uses all RPCs; after SIGKILL everything is still there."""

from __future__ import annotations

import queue
import time
from pathlib import Path

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, CHANNEL_OPTIONS
from blackbox.reflection import file_of
from blackbox.wire_table import SERVICE, DescribedClient, table_file

LINES = (Path(__file__).parents[2] / "proto/takhin/v1/takhin.proto").read_bytes().splitlines()
"""The records of these tests: the lines of a real file."""

KEYS = {b"user-1": 1404122828, b"21": 1173551340, b"foobar": 1357151166, b"\x00\xff": 1957035553}
"""Keys with their positive murmur2 hash from Kafka's Java client, as the table's document lists them."""


@pytest.fixture
def channel(broker):
    with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
        yield channel


@pytest.fixture
def client(channel):
    return DescribedClient(channel, table_file())


def call(client, method, **fields):
    """Call a unary method with the fields of its request."""
    request = getattr(client.messages, f"{method}Request")(**fields)
    return getattr(client, method)(request, timeout=CALL_S_MAX)


def read(client, topic, partition, count):
    """The first `count` records of a partition and the high watermark, by a tail that is then cancelled."""
    request = client.messages.ConsumeMessagesRequest(topic=topic, partition=partition, offset=-1)
    tail = client.ConsumeMessages(request, timeout=CALL_S_MAX)
    records = []
    for response in tail:
        assert (response.topic, response.partition, response.error) == (topic, partition, "")
        records += response.records
        if len(records) >= count:
            tail.cancel()
            return records, response.high_watermark
    raise AssertionError(f"the tail ended after {len(records)} records")


def make_topics(client):
    """Create the topics `lines` (4 partitions), `gone` (and delete it again) and `bytes` (1)."""
    assert list(call(client, "ListTopics").topics) == []
    for name, partitions, configs in (
        ("lines", 4, {"max.message.bytes": "4096"}),
        ("gone", 2, {}),
        ("bytes", 0, {"message.timestamp.type": "LogAppendTime"}),
    ):
        response = call(client, "CreateTopic", name=name, num_partitions=partitions, configs=configs)
        assert (response.success, response.error) == (True, "")
    again = call(client, "CreateTopic", name="lines", num_partitions=4)
    assert not again.success
    assert "lines" in again.error
    assert list(call(client, "ListTopics").topics) == ["bytes", "gone", "lines"]
    assert call(client, "DeleteTopic", name="gone").success
    missing = call(client, "DeleteTopic", name="gone")
    assert not missing.success
    assert "gone" in missing.error
    assert list(call(client, "ListTopics").topics) == ["bytes", "lines"]


def describe_topics(client, ends):
    """GetTopic, DescribeTopics and GetPartitionOffsets agree with `ends`: by topic, in partition order."""
    described = call(client, "DescribeTopics", topics=["lines", "gone", "bytes"]).topics
    assert [topic.name for topic in described] == ["lines", "bytes"]
    for topic in described:
        got = call(client, "GetTopic", name=topic.name)
        assert (got.topic, got.error) == (topic, "")
        assert topic.num_partitions == len(topic.partitions) == len(ends[topic.name])
        assert topic.replication_factor == 1
        for number, end in enumerate(ends[topic.name]):
            info = topic.partitions[number]
            assert (info.partition_id, info.beginning_offset, info.end_offset) == (number, 0, end)
            assert list(info.replicas) == list(info.isr) == [info.leader]
            offsets = call(client, "GetPartitionOffsets", topic=topic.name, partition=number)
            assert (offsets.topic, offsets.partition, offsets.error) == (topic.name, number, "")
            assert (offsets.beginning_offset, offsets.end_offset) == (0, end)
    assert "gone" in call(client, "GetTopic", name="gone").error


def produce_lines(client):
    """Produce by single records, a stream, a batch, and by key; returns what each partition must hold."""
    record, request = client.messages.Record, client.messages.ProduceMessageRequest
    held = {0: [], 1: [], 2: [], 3: []}
    for line in LINES[:10]:
        response = call(client, "ProduceMessage", topic="lines", partition=1, record=record(value=line))
        assert (response.topic, response.partition, response.error) == ("lines", 1, "")
        assert response.offset == len(held[1])
        held[1].append((b"", line))
    streamed = client.ProduceMessageStream(
        (request(topic="lines", partition=2, record=record(key=b"k", value=line)) for line in LINES),
        timeout=CALL_S_MAX,
    )
    assert [(r.offset, r.error) for r in streamed] == [(offset, "") for offset in range(len(LINES))]
    held[2] += [(b"k", line) for line in LINES]
    whole = [record(value=line) for line in LINES]
    response = call(client, "ProduceMessage", topic="lines", partition=1, records=whole)
    assert (response.offset, response.error) == (10, "")
    held[1] += [(b"", line) for line in LINES]
    for key, positive_hash in KEYS.items():
        keyed = record(key=key, value=b"v")
        response = call(client, "ProduceMessage", topic="lines", partition=-1, record=keyed)
        assert (response.partition, response.error) == (positive_hash % 4, "")
        assert response.offset == len(held[response.partition])
        held[response.partition].append((key, b"v"))
    return held


def produce_bytes(client):
    """Produce a record with every byte value, repeated and binary headers, and two timestamps; returns it."""
    messages = client.messages
    headers = [
        messages.RecordHeader(key="trace", value=bytes(range(256))),
        messages.RecordHeader(key="trace", value=b""),
        messages.RecordHeader(key="ключ", value=b"\x00"),
    ]
    record = messages.Record(key=bytes(range(255, -1, -1)), value=bytes(range(256)), headers=headers)
    before = time.time_ns() // 1_000_000
    response = call(client, "ProduceMessage", topic="bytes", partition=0, record=record, required_acks=-1)
    assert (response.offset, response.error) == (0, "")
    assert before <= response.timestamp <= time.time_ns() // 1_000_000
    record.timestamp = response.timestamp
    return record


def commit(client):
    """Commit offsets for two groups and delete one of them."""
    offset = client.messages.TopicPartitionOffset
    ends = [offset(topic="lines", partition=2, offset=7), offset(topic="bytes", partition=0, offset=1)]
    for group_id in ("readers ж", "leavers"):
        response = call(client, "CommitOffset", group_id=group_id, offsets=ends)
        assert (response.success, response.error) == (True, "")
    assert call(client, "DeleteConsumerGroup", group_id="leavers").success
    again = call(client, "DeleteConsumerGroup", group_id="leavers")
    assert not again.success
    assert "leavers" in again.error


def check_everything(client, held, record):
    """The client reads exactly what was acknowledged as durable."""
    describe_topics(client, {"lines": [len(held[n]) for n in range(4)], "bytes": [1]})
    for partition, expected in held.items():
        if expected:
            records, end = read(client, "lines", partition, len(expected))
            assert end == len(expected)
            assert [(r.key, r.value) for r in records] == expected
            assert [(r.offset, r.partition) for r in records] == [(n, partition) for n in range(end)]
    (stored,), _ = read(client, "bytes", 0, 1)
    assert stored.SerializeToString() == record.SerializeToString()
    (group,) = call(client, "ListConsumerGroups").groups
    assert (group.group_id, group.state, group.protocol_type) == ("readers ж", "Empty", "consumer")
    assert group.member_count == 0
    described = call(client, "DescribeConsumerGroup", group_id="readers ж")
    assert (described.group_id, described.error) == ("readers ж", "")
    assert (described.state, described.protocol_type) == ("Empty", "consumer")
    assert list(described.members) == []
    assert "leavers" in call(client, "DescribeConsumerGroup", group_id="leavers").error


def check_committed(channel):
    """Check the committed offsets. The table does not list these calls, so reflection describes them."""
    client = DescribedClient(channel, file_of(channel, "v1", SERVICE))
    expected = [("bytes", 0, 1), ("lines", 2, 7)]
    committed = call(client, "GetCommittedOffsets", group_id="readers ж")
    assert sorted((o.topic, o.partition, o.offset) for o in committed.offsets) == expected
    described = call(client, "DescribeConsumerGroup", group_id="readers ж")
    assert sorted((o.topic, o.partition, o.committed_offset) for o in described.offsets) == expected
    ends = {("bytes", 0): 1, ("lines", 2): described.offsets[-1].end_offset}
    assert all(o.lag == ends[o.topic, o.partition] - o.committed_offset for o in described.offsets)


def test_a_client_of_the_table_finds_everything_again_after_sigkill(broker, client, channel):
    """All 14 RPCs work with real values, and everything acknowledged is there after SIGKILL and restart."""
    health = call(client, "HealthCheck")
    assert (health.status, health.version) == ("healthy", broker.ready["version"])
    assert 0 <= health.uptime_seconds < 60
    make_topics(client)
    describe_topics(client, {"lines": [0, 0, 0, 0], "bytes": [0]})
    held = produce_lines(client)
    record = produce_bytes(client)
    commit(client)
    check_everything(client, held, record)
    check_committed(channel)

    broker.kill()
    with (
        Broker(broker.data_dir) as restarted,
        grpc.insecure_channel(restarted.address, options=CHANNEL_OPTIONS) as after,
    ):
        assert restarted.ready["topics"] == "2"
        client = DescribedClient(after, table_file())
        check_everything(client, held, record)
        check_committed(after)
        response = call(client, "ProduceMessage", topic="bytes", record=client.messages.Record(value=b"next"))
        assert (response.offset, response.error) == (1, "")


def test_a_member_by_reflection(channel, client):
    """A client that learns of JoinConsumerGroup by reflection joins a group, commits, and leaves."""
    assert call(client, "CreateTopic", name="shared", num_partitions=2).success
    client = DescribedClient(channel, file_of(channel, "v1", SERVICE))
    messages = client.messages
    requests = queue.SimpleQueue()
    requests.put(messages.MemberRequest(join=messages.Join(group_id="members", topics=["shared"])))
    responses = client.JoinConsumerGroup(iter(requests.get, None), timeout=CALL_S_MAX)
    member_id = next(responses).joined.member_id
    told = next(each.assignment for each in responses if len(each.assignment.partitions) == 2)
    requests.put(messages.MemberRequest(heartbeat=messages.Heartbeat(member_epoch=told.member_epoch)))
    assert next(responses).heartbeat.member_epoch == told.member_epoch
    (group,) = call(client, "ListConsumerGroups").groups
    assert (group.group_id, group.state, group.member_count) == ("members", "Stable", 1)
    mine = {"group_id": "members", "member_id": member_id, "member_epoch": told.member_epoch}
    offset = messages.TopicPartitionOffset(topic="shared", partition=1)
    assert call(client, "CommitOffset", offsets=[offset], **mine).success
    assert not call(client, "CommitOffset", group_id="members", offsets=[offset]).success
    requests.put(messages.MemberRequest(leave=messages.Leave()))
    assert list(responses) == []
    assert call(client, "DeleteOffsets", group_id="members", topics=["shared"]).success
    assert list(call(client, "ListConsumerGroups").groups) == []


def test_a_tail_of_the_table_sees_what_is_produced_later(client):
    """A consume stream at the end delivers records that are produced after it began."""
    assert call(client, "CreateTopic", name="tailed").success
    request = client.messages.ConsumeMessagesRequest(topic="tailed", offset=-2, max_wait_ms=100)
    tail = client.ConsumeMessages(request, timeout=CALL_S_MAX)
    first = next(tail)
    assert (list(first.records), first.high_watermark) == ([], 0)
    call(client, "ProduceMessage", topic="tailed", record=client.messages.Record(key=b"k", value=b"late"))
    late = next(response for response in tail if response.records)
    assert [(r.offset, r.key, r.value) for r in late.records] == [(0, b"k", b"late")]
    assert late.high_watermark == 1
    tail.cancel()
