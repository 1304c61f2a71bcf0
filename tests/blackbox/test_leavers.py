"""Clients that cancel, vanish or stop reading leave nothing behind.

Leftovers are visible from outside: calls_max limits the calls under way, so a call that is never freed uses
up its room; sockets and memory are listed in /proc; a forgotten stream would delay the broker's end.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from blackbox.broker_process import Broker, environment
from blackbox.clients import (
    CALL_S_MAX,
    batch,
    connected,
    consume,
    create_topic,
    eventually,
    next_records,
    produce,
    read_all,
)
from takhin.v1 import takhin_pb2 as pb

CALLS_MAX = 8
OF_ONE_ADDRESS_MAX = 7
"""One in eight is left for others."""


@pytest.fixture
def broker(data_dir):
    """A broker with room for eight calls."""
    with Broker(data_dir, consume_heartbeat_ms=100, rpc_calls_max=CALLS_MAX) as broker:
        yield broker


def has_room(stub):
    """True if there is room for one more call."""
    try:
        stub.ListTopics(pb.ListTopicsRequest(), timeout=CALL_S_MAX)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    return True


def sockets(broker):
    """The number of sockets that the broker's process has open."""
    folder = Path(f"/proc/{broker.pid}/fd")
    return sum(str(entry.readlink()).startswith("socket:") for entry in folder.iterdir())


def resident_bytes(broker):
    status = Path(f"/proc/{broker.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1_024


def test_cancelled_tails_are_freed(broker, stub):
    """Tails that use all the room cause a refusal; after they are cancelled the room is free at once.

    Cancelling them while responses are on their way causes no error.
    """
    create_topic(stub, "topic")
    for _ in range(20):  # more than a connection buffers before its client reads on
        produce(stub, "topic", [b"v" * 1_000] * 500)
    for _ in range(3):
        tails = [consume(stub, "topic") for _ in range(OF_ONE_ADDRESS_MAX)]
        for tail in tails:
            next(tail)
        assert not has_room(stub)
        for tail in tails:
            tail.cancel()
        eventually(lambda: has_room(stub), seconds_max=2)
    assert "error" not in broker.log()
    assert broker.stop() == 0


def test_a_cancelled_produce_stream_is_freed(broker, stub):
    """A produce stream that is cancelled with requests under way frees its room; its topic goes on."""
    create_topic(stub, "topic")
    for _ in range(CALLS_MAX + 1):
        call = stub.ProduceMessageStream(
            (batch("topic", [b"%d" % n] * 100) for n in range(1_000_000)), timeout=CALL_S_MAX
        )
        next(call)
        call.cancel()
    eventually(lambda: has_room(stub), seconds_max=2)
    before = produce(stub, "topic", [b"a"])
    assert produce(stub, "topic", [b"b"]) == before + 1
    assert broker.stop() == 0


def test_a_client_that_vanishes_is_forgotten(broker, stub):
    """The streams of a client that dies by SIGKILL are freed, and its connection is closed."""
    create_topic(stub, "topic")
    at_first = sockets(broker)
    with subprocess.Popen(
        [sys.executable, Path(__file__).parent / "vanishing_client.py", broker.address, "4", "3"],
        stdout=subprocess.PIPE,
        env=environment(),
    ) as child:
        try:
            assert child.stdout.readline() == b"streams are open\n"
            tail = consume(stub, "topic")
            next(tail)
            assert not has_room(stub)
            assert sockets(broker) > at_first
        finally:
            child.kill()
    eventually(lambda: has_room(stub), seconds_max=2)
    eventually(lambda: sockets(broker) == at_first, seconds_max=2)
    produce(stub, "topic", [b"goes on"])
    assert broker.stop() == 0


def test_clients_that_never_read_hold_up_nobody(data_dir):
    """Twenty unread tails use bounded memory, and produce, consume and a clean stop in time still work."""
    with (
        Broker(data_dir, shutdown_grace_ms=1_000) as broker,
        connected(broker.address) as stub,
        connected(broker.address) as idle,
    ):
        create_topic(stub, "topic")
        for number in range(40):
            produce(stub, "topic", [b"%d" % number * 1_000] * 500)
        assert len(read_all(stub, "topic")) == 20_000
        before = resident_bytes(broker)
        tails = [consume(idle, "topic", deadline_s=60) for _ in range(20)]
        for number in range(300):
            at = produce(stub, "topic", [b"meanwhile %d" % number])
            call = consume(stub, "topic", offset=at, max_records=1)
            assert next_records(call).records[0].value == b"meanwhile %d" % number
        assert resident_bytes(broker) - before < 100 << 20
        assert broker.stop(seconds_max=3) == 0
        for tail in tails:
            with pytest.raises(grpc.RpcError) as caught:
                list(tail)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_tail_that_is_not_read_does_not_hold_up_the_stop(data_dir):
    """The broker waits a moment for it, not for half of its grace."""
    with Broker(data_dir, shutdown_grace_ms=20_000) as broker, connected(broker.address) as stub:
        create_topic(stub, "t")
        for _ in range(8):
            produce(stub, "t", [bytes(1_000_000)] * 4)
        unread = consume(stub, "t")
        next(unread)
        begin = time.monotonic()
        assert broker.stop() == 0
        assert time.monotonic() - begin < 6
        unread.cancel()
