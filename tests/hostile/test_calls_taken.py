"""Calls that are opened and left open: no one client takes all of rpc.calls_max."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, CHANNEL_OPTIONS, connected, create_topic, eventually, refusal
from hostile.relay import Relay
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

CALLS_MAX = 40
CONNECTIONS = 4
OTHER_ADDRESS = "127.0.0.2"
TAIL = pb.ConsumeMessagesRequest(topic="t").SerializeToString()
HEALTH = "/grpc.health.v1.Health/"
OPENED = {
    "tails": ("/takhin.v1.TakhinService/ConsumeMessages", [TAIL]),
    "watches": (f"{HEALTH}Watch", [b""]),
    "silent watches": (f"{HEALTH}Watch", None),
    "silent checks": (f"{HEALTH}Check", None),
    "silent calls": ("/takhin.v1.TakhinService/HealthCheck", None),
}
"""A method, and the messages that its calls send; None: none ever."""
SHORT = ("watches", "silent checks")


def silence(over: threading.Event) -> Iterator[bytes]:
    """The messages of a call that sends none."""
    over.wait()
    yield from ()


def is_served(stub: TakhinServiceStub) -> bool:
    try:
        stub.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S_MAX)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    return True


@pytest.mark.parametrize(
    "opened", [pytest.param(name, marks=[] if name in SHORT else pytest.mark.soak) for name in OPENED]
)
def test_one_client_does_not_take_all_calls(data_dir, opened):
    """Those of another address are served, whatever the calls are; and its health is told."""
    method, messages = OPENED[opened]
    with (
        Broker(data_dir, rpc_calls_max=CALLS_MAX, consume_heartbeat_ms=50) as broker,
        Relay(broker.address, OTHER_ADDRESS) as relay,
        connected(relay.address) as other,
        ExitStack() as stack,
    ):
        create_topic(other, "t")
        over = threading.Event()
        stack.callback(over.set)
        rpcs = [
            stack.enter_context(grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS)).stream_stream(
                method
            )
            for _ in range(CONNECTIONS)
        ]
        calls = [
            rpcs[n % CONNECTIONS](silence(over) if messages is None else iter(messages), timeout=30)
            for n in range(2 * CALLS_MAX)
        ]
        eventually(lambda: sum(call.done() for call in calls) >= CALLS_MAX)
        eventually(lambda: is_served(other))  # until the rest of them are refused, gRPC itself may refuse
        for _ in range(10):
            assert other.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S_MAX).topics == ["t"]
            assert other.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX).status == "healthy"
        assert {refusal(call).reason for call in calls if call.done()} == {"OVERLOADED"}
