"""More connections than there are file descriptors for, none of which says anything."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack, suppress

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import batch, connected, create_topic, eventually, produce
from hostile import frames
from hostile.honest import TOPIC, Honest
from hostile.relay import Relay

DESCRIPTORS = 256
SOCKETS = 500
RECOVERY_S_MAX = 5.0


def served(stub):
    """True if a client that has just come is answered."""
    call = stub.ProduceMessage.future(batch(TOPIC, [b"v"]), timeout=RECOVERY_S_MAX)
    assert call.code() in {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}  # the connection was closed
    return call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_500_idle_sockets_with_256_descriptors(data_dir, figures, rounds):
    """Producers do not notice, and a new client is served within five seconds of their end."""
    with Broker(data_dir) as broker:
        resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        host, _, port = broker.address.rpartition(":")
        slowest = 0.0
        with Honest(broker.address) as honest:
            for _ in range(rounds):
                with ExitStack() as stack:
                    for _ in range(SOCKETS):
                        with suppress(OSError):
                            stack.enter_context(socket.create_connection((host, int(port)), timeout=1))
                    before = len(honest.times)
                    eventually(lambda before=before: len(honest.times) >= before + 20)
                begin = time.monotonic()
                with connected(broker.address) as stub:
                    eventually(lambda stub=stub: served(stub), seconds_max=RECOVERY_S_MAX)
                slowest = max(slowest, time.monotonic() - begin)
    figures(f"{rounds} x {SOCKETS} idle sockets: a new client served within {slowest:.2f} s; {honest.line()}")
    assert not honest.failures


def closed(connection: socket.socket) -> bool:
    """True if the broker has hung up."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:  # reset: it had not read all that we sent
        return True
    return True


def test_an_address_beyond_its_connections(data_dir):
    """Its newest ones are closed, idle or not; those of another address stay, and new ones are taken."""
    with (
        Broker(data_dir, quotas_address_connections=3) as broker,
        Relay(broker.address, "127.0.0.2") as relay,
        Relay(broker.address, "127.0.0.3") as third,
        connected(relay.address) as other,
        connected(broker.address) as stub,
        ExitStack() as stack,
    ):
        create_topic(stub, "t")
        produce(other, "t", [b"v"])
        # Of those that came since its last look the broker does not know the order: let it see these first.
        many = [stack.enter_context(frames.connect(third.address)) for _ in range(4)]
        eventually(lambda: sum(map(closed, many)) == 1)
        hello = [stack.enter_context(frames.connect(broker.address)) for _ in range(10)]
        silent = [stack.enter_context(frames.connect(broker.address, b"")) for _ in range(10)]
        eventually(lambda: sum(map(closed, hello + silent)) == 18)
        produce(stub, "t", [b"v"])
        produce(other, "t", [b"v"])
        assert "connections_over_quota" in broker.log()
        with Relay(broker.address, "127.0.0.4") as fourth, connected(fourth.address) as new:
            produce(new, "t", [b"v"])
