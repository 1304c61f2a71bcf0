"""The broker's log: the ready line, and what debug says at each layer."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

import forked
from blackbox.broker_process import READY, Broker, command, environment
from blackbox.clients import CHANNEL_OPTIONS, connected, create_topic, produce, read_all
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub


def lines(broker: Broker, event: str) -> list[dict]:
    """The broker's log lines of one event. Every line of the log must be JSON."""
    return [line for line in map(json.loads, broker.log().splitlines()) if line["event"] == event]


def ready_line(tmp_path, log_format: str) -> str:
    """What `takhin serve` prints on stdout with its log on a terminal of its own."""
    ours, theirs = pty.openpty()
    args = ("serve", "--data-dir", tmp_path, "--listen", "127.0.0.1:0", "--log-format", log_format)
    with forked.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=theirs, env=environment(), text=True
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        assert process.stdout.read() == ""
    os.close(ours)
    return line


@pytest.mark.parametrize("log_format", ["human", "auto"])
def test_the_ready_line_is_a_sentence_for_people(tmp_path, log_format):
    """Where the log is for people, the line that scripts wait for is the sentence it has always been."""
    assert READY.fullmatch(ready_line(tmp_path, log_format))


def test_the_ready_line_is_json_as_the_log(tmp_path):
    """Where the log is JSON, so is the ready line, with the same facts."""
    line = json.loads(ready_line(tmp_path, "json"))
    assert (line["event"], line["level"], line["data_dir"]) == ("ready", "info", str(tmp_path))
    assert line.keys() >= READY.groupindex.keys()


def test_debug_tells_of_every_layer(data_dir):
    """Each call, connection, stream, read, commit group, checkpoint and file has its debug line."""
    with Broker(
        data_dir, log_level="debug", storage_checkpoint_pages=4, storage_open_partitions_max=1
    ) as broker:
        with connected(broker.address) as stub:
            for topic in ("one", "other"):
                create_topic(stub, topic)
                produce(stub, topic, [b"x" * 20_000] * 10)
            assert len(read_all(stub, "one")) == 10
            assert stub.GetTopic(pb.GetTopicRequest(name="absent")).error
            with pytest.raises(grpc.RpcError):
                list(stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="absent")))
        assert broker.stop() == 0
        calls = {(call["method"].rpartition("/")[2], call["outcome"]) for call in lines(broker, "call")}
        assert calls >= {("CreateTopic", "OK"), ("GetTopic", "ERROR_CODE_UNKNOWN_TOPIC")}
        assert all(call["took_ms"] >= 0 for call in lines(broker, "call"))
        assert {stream["outcome"] for stream in lines(broker, "stream_ended")} >= {"OK", "NOT_FOUND"}
        assert len(lines(broker, "stream_began")) == len(lines(broker, "stream_ended"))
        assert len(lines(broker, "connection_first_call")) == 1
        groups = lines(broker, "group_committed")
        assert sum(group["records"] for group in groups if group["partition"] == "one/0") == 10
        assert sum(read["records"] for read in lines(broker, "read")) == 10
        assert lines(broker, "checkpoint_began")
        assert {ended["error"] for ended in lines(broker, "checkpoint_ended")} == {None}
        assert len(lines(broker, "file_opened")) == len(lines(broker, "file_closing")) >= 3


def test_without_debug_nothing_is_wrapped_and_nothing_said(data_dir):
    """A broker that does not want debug lines writes none for a call."""
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        create_topic(stub, "topic")
        produce(stub, "topic", [b"v"])
        assert broker.log() == ""


def test_a_health_watch_is_told_of(data_dir):
    """The streams of the services beside ours have their lines, too."""
    with Broker(data_dir, log_level="debug") as broker:
        with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
            watch = HealthStub(channel).Watch(HealthCheckRequest())
            next(watch)
            TakhinServiceStub(channel).ListTopics(pb.ListTopicsRequest())
            assert broker.stop() == 0
        assert [line["outcome"] for line in lines(broker, "stream_ended")] == ["UNAVAILABLE"]
