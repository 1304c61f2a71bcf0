"""Calls that are opened and left open: no one client takes all of rpc.calls_max."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import (
    CALL_S_MAX,
    CHANNEL_OPTIONS,
    connected,
    create_topic,
    eventually,
    produce,
    refusal,
)
from hostile import frames
from hostile.raw_calls import HELLO, READ_BYTES
from hostile.relay import Relay
from takhin.v1 import takhin_pb2 as pb

CALLS_MAX = 40
CONNECTIONS = 4
OTHER_ADDRESS = "127.0.0.2"
TAIL = pb.ConsumeMessagesRequest(topic="t").SerializeToString()
HEALTH = "/grpc.health.v1.Health/"
CONSUME, LIST = "/takhin.v1.TakhinService/ConsumeMessages", "/takhin.v1.TakhinService/ListTopics"
OPENED = {
    "tails": (CONSUME, [TAIL]),
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
        for _ in range(10):
            assert other.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S_MAX).topics == ["t"]
            assert other.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX).status == "healthy"
        assert {refusal(call).reason for call in calls if call.done()} == {"OVERLOADED"}


def opened(streams: Iterator[int], method: str, body: bytes | None = None) -> bytes:
    """A call, without a message and without an end unless there is a body."""
    stream = next(streams)
    begin = frames.frame(
        frames.HEADERS, flags=frames.END_HEADERS, stream=stream, payload=frames.headers(method)
    )
    if body is None:
        return begin
    return begin + frames.frame(
        frames.DATA, flags=frames.END_STREAM, stream=stream, payload=frames.message(body)
    )


def unread_bytes(connection: socket.socket) -> int:
    """What the other end has sent and this end has not taken."""
    ports = f"{connection.getpeername()[1]:04X} [0-9A-F]+:{connection.getsockname()[1]:04X}"
    tables = "".join(Path("/proc/net", name).read_text() for name in ("tcp", "tcp6"))
    line = re.search(f": [0-9A-F]+:{ports} 01 ([0-9A-F]+):", tables)
    assert line is not None
    return int(line[1], 16)


def test_refusals_that_are_not_read_take_no_room(data_dir):
    """A client that reads nothing opens calls on two connections; a third one of its address is served."""
    tail = pb.ConsumeMessagesRequest(topic="t", offset=-1, max_bytes=8 << 20).SerializeToString()
    with Broker(data_dir, rpc_calls_max=CALLS_MAX) as broker, connected(broker.address) as honest:
        create_topic(honest, "t")
        for _ in range(4):
            produce(honest, "t", [bytes(256 << 10)] * 16)
        with ExitStack() as stack:
            greedy = [stack.enter_context(frames.connect(broker.address, HELLO)) for _ in range(2)]
            streams = frames.streams()
            for connection in greedy:
                connection.sendall(frames.frame(frames.SETTINGS, flags=frames.ACK))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
                connection.sendall(opened(streams, CONSUME, tail))
                eventually(lambda at=connection: unread_bytes(at) > 1 << 20)
            for connection in greedy:
                silent = (opened(streams, LIST) for _ in range(3 * CALLS_MAX))
                connection.sendall(b"".join(silent))
            for _ in range(100):
                assert honest.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S_MAX).topics == ["t"]
            for connection in greedy:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
                refused = 0
                while refused < 2 * CALLS_MAX:
                    refused += connection.recv(READ_BYTES).count(b"rpc.calls_max")
