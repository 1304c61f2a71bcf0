"""Clients as strangers write them: the generated stub on a channel, and how its errors read.

This file knows the generated interface and public gRPC, and none of the broker's code.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

CALL_S_MAX = 20.0
"""Deadline of every call, so that a broker that hangs fails the test instead of stopping it."""

CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 64 << 20),  # the broker's limit is under test, not the client's
    ("grpc.use_local_subchannel_pool", 1),  # one channel, one connection
    ("grpc.initial_reconnect_backoff_ms", 100),
)


@contextmanager
def connected(address: str) -> Iterator[TakhinServiceStub]:
    """A stub on a connection of its own."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield TakhinServiceStub(channel)


class Refusal(NamedTuple):
    """How an RPC failed: its status and what google.rpc.ErrorInfo says, which may be missing."""

    code: grpc.StatusCode
    sentence: str
    reason: str
    domain: str
    details: dict[str, str]


def refusal(error: Any) -> Refusal:
    """Convert a raised RpcError or an ended call to a Refusal."""
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    for detail in status.details if status is not None else ():
        detail.Unpack(info)
    return Refusal(error.code(), error.details(), info.reason, info.domain, dict(info.metadata))


def error_name(response: Any) -> str:
    """The in-band error code of a response, without its prefix; empty if there is no error."""
    if response.error_code == pb.ERROR_CODE_UNSPECIFIED:
        return ""
    return pb.ErrorCode.Name(response.error_code).removeprefix("ERROR_CODE_")


def create_topic(stub: Any, name: str, partitions: int = 1, **configs: str) -> str:
    """Create a topic and return its name. configs: underscores stand for dots."""
    named = {key.replace("_", "."): value for key, value in configs.items()}
    request = pb.CreateTopicRequest(name=name, num_partitions=partitions, configs=named)
    response = stub.CreateTopic(request, timeout=CALL_S_MAX)
    assert (response.success, response.error) == (True, "")
    return name


def batch(topic: str, values: list[bytes], *, partition: int = 0) -> pb.ProduceMessageRequest:
    records = [pb.Record(value=value) for value in values]
    return pb.ProduceMessageRequest(topic=topic, partition=partition, records=records)


def produce(stub: Any, topic: str, values: list[bytes], *, partition: int = 0) -> int:
    """Append a batch; returns the offset of its first record."""
    response = stub.ProduceMessage(batch(topic, values, partition=partition), timeout=CALL_S_MAX)
    assert (response.error, response.record_count) == ("", len(values))
    return response.offset


def consume(stub: Any, topic: str, *, deadline_s: float = CALL_S_MAX, **fields: Any) -> Any:
    """Start a consume call, from the earliest offset unless `fields` say otherwise."""
    request = pb.ConsumeMessagesRequest(**{"topic": topic, "offset": -1} | fields)
    return stub.ConsumeMessages(request, timeout=deadline_s)


def read_all(stub: Any, topic: str, partition: int = 0) -> list[pb.Record]:
    """Every record of a partition, from its beginning to its current end."""
    responses = consume(stub, topic, partition=partition, stop_at_end=True)
    return [record for response in responses for record in response.records]


def next_records(call: Any) -> Any:
    """The next response of a consume call that is not a heartbeat."""
    return next(response for response in call if response.records)


def end_offset(stub: Any, topic: str, partition: int = 0) -> int:
    request = pb.GetPartitionOffsetsRequest(topic=topic, partition=partition)
    response = stub.GetPartitionOffsets(request, timeout=CALL_S_MAX)
    assert response.error == ""
    return response.end_offset


def own_topic(stub: TakhinServiceStub, test: str, partitions: int = 1) -> str:
    """Create a topic for one test, named after the test."""
    return create_topic(stub, re.sub("[^a-z0-9]+", "-", test), partitions)


def eventually(condition: Callable[[], bool], *, seconds_max: float = 5.0) -> None:
    """Repeat a question until the answer is yes: for changes that are only visible from outside."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds_max} s"
        time.sleep(0.02)
