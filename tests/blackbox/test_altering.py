"""A topic is altered over the wire, by a client that knows only what reflection tells it."""

from __future__ import annotations

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, CHANNEL_OPTIONS
from blackbox.reflection import file_of
from blackbox.wire_table import SERVICE, DescribedClient


@pytest.fixture
def client(broker):
    with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
        yield DescribedClient(channel, file_of(channel, "v1", SERVICE))


def call(client, method, **fields):
    request = getattr(client.messages, f"{method}Request")(**fields)
    return getattr(client, method)(request, timeout=CALL_S_MAX)


def origins(client):
    """Value and origin of the configs of the topic that are not at their default."""
    configs = call(client, "DescribeTopicConfigs", name="orders").configs
    assert all(config.doc for config in configs)
    return {of.name: (of.value, of.origin) for of in configs if of.origin != "default"}


def test_a_change_survives_sigkill(broker, client):
    """What AlterTopic has answered is there after SIGKILL: configs, what was reset, and new partitions."""
    assert call(client, "CreateTopic", name="orders", configs={"retention.ms": "7"}).success
    altered = call(
        client,
        "AlterTopic",
        name="orders",
        set={"retention.bytes": "1000000", "read.only": "false"},
        reset=["retention.ms"],
        num_partitions=3,
    )
    assert (altered.success, altered.error) == (True, "")
    assert len(altered.warnings) == 1
    expected = {"retention.bytes": ("1000000", "topic"), "read.only": ("false", "topic")}
    assert origins(client) == expected
    record = client.messages.Record(value=b"v", timestamp=1_000)
    produced = call(client, "ProduceMessage", topic="orders", partition=2, record=record)
    assert (produced.offset, produced.num_partitions) == (0, 3)
    broker.kill()
    with (
        Broker(broker.data_dir, topics_retention_records=9) as restarted,
        grpc.insecure_channel(restarted.address, options=CHANNEL_OPTIONS) as channel,
    ):
        again = DescribedClient(channel, file_of(channel, "v1", SERVICE))
        assert origins(again) == expected | {"retention.records": ("9", "broker")}
        topic = call(again, "GetTopic", name="orders").topic
        assert (topic.num_partitions, topic.configs["retention.ms"]) == (3, "-1")
        sizes = [topic.partitions[n].size_bytes for n in range(3)]
        assert min(sizes) > 0
        found = [
            (of.record_count, of.first_timestamp, of.last_timestamp)
            for of in (topic.partitions[n] for n in range(3))
        ]
        assert found == [(0, -1, -1), (0, -1, -1), (1, 1_000, 1_000)]


def test_refusals(client):
    """A refusal is in band, with a code, and nothing of the change is made; a stream goes on after one."""
    codes = client.messages.AlterTopicResponse.DESCRIPTOR.fields_by_name[
        "error_code"
    ].enum_type.values_by_name
    assert call(client, "CreateTopic", name="orders", num_partitions=2).success
    for fields, code in (
        ({"name": "nope"}, "UNKNOWN_TOPIC"),
        ({"num_partitions": 1, "set": {"retention.ms": "5"}}, "INVALID_ARGUMENT"),
        ({"num_partitions": 3, "set": {"retention.ms": "-5"}}, "INVALID_CONFIG"),
        (
            {"num_partitions": 3, "set": {"cleanup.policy": "compact", "retention.consumed": "true"}},
            "INVALID_CONFIG",
        ),
        ({"num_partitions": 3, "reset": ["nope"]}, "INVALID_CONFIG"),
    ):
        refused = call(client, "AlterTopic", **{"name": "orders"} | fields)
        assert not refused.success
        assert refused.error
        assert refused.error_code == codes[f"ERROR_CODE_{code}"].number, refused.error
    assert "nope" in call(client, "DescribeTopicConfigs", name="nope").error
    assert origins(client) == {}
    assert call(client, "GetTopic", name="orders").topic.num_partitions == 2
    assert call(client, "AlterTopic", name="orders", set={"read.only": "true"}).success
    request, record = client.messages.ProduceMessageRequest, client.messages.Record
    answers = list(
        client.ProduceMessageStream(
            (request(topic="orders", record=record(value=b"v")) for _ in range(3)), timeout=CALL_S_MAX
        )
    )
    assert {answer.error_code for answer in answers} == {codes["ERROR_CODE_TOPIC_READ_ONLY"].number}
    assert [answer.offset for answer in answers] == [-1] * 3
