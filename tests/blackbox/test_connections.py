"""Connections that are opened and never used, that ping, and some with very many calls."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, connected, eventually
from hostile import frames
from takhin.v1 import takhin_pb2 as pb

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of HTTP/2 says first: the preface and empty SETTINGS."""
PING = frames.frame(frames.PING, payload=b"whatever")
PING_ANSWER = frames.frame(frames.PING, flags=frames.ACK, payload=b"whatever")
PINGS = 8
CONNECTIONS_MAX = 20
STREAMS_MAX = 100
AT_ONCE = 1_400
"""Calls at one moment: as many as may wait until they are taken in."""


def silent(broker):
    """A connection that says hello and nothing else."""
    host, _, port = broker.address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=CALL_S_MAX)
    connection.sendall(HELLO)
    return connection


def test_a_connection_that_never_calls_is_closed(data_dir):
    """rpc.connection_idle_ms holds for connections that have never made a call, too."""
    with Broker(data_dir, rpc_connection_idle_ms=500) as broker, silent(broker) as connection:
        heard = b""
        while piece := connection.recv(1 << 16):
            heard += piece
        assert heard.endswith(b"connection idle")


def heard_until(connection, last):
    """What the broker says, up to `last` or to its end."""
    heard = b""
    while last not in heard and (piece := connection.recv(1 << 16)):
        heard += piece
    return heard


def test_pings_that_arrive_a_little_early(data_dir):
    """A client keeps to rpc.ping_interval_ms_min by its own clock; on the way pings come closer together."""
    with Broker(data_dir, rpc_ping_interval_ms_min=300) as broker, silent(broker) as connection:
        for _ in range(PINGS):
            connection.sendall(PING)
            assert PING_ANSWER in heard_until(connection, PING_ANSWER)
            time.sleep(0.2)


def test_pings_that_are_too_many(data_dir):
    """The connection is closed, with a reason."""
    with Broker(data_dir) as broker, silent(broker) as connection:
        connection.sendall(PING * PINGS)
        assert b"too_many_pings" in heard_until(connection, b"too_many_pings")


def health(stub):
    return stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX)


def test_all_connections_taken(data_dir):
    """Health and one line of the log say so while it lasts, whoever holds the connections."""
    with Broker(data_dir, rpc_connections_max=CONNECTIONS_MAX) as broker, connected(broker.address) as stub:
        assert not health(stub).reasons
        with ExitStack() as stack:
            for _ in range(CONNECTIONS_MAX):
                stack.enter_context(silent(broker))
            eventually(lambda: health(stub).status == "degraded")
            assert health(stub).reasons == [
                "all 20 connections (rpc.connections_max) are taken, and others are turned away"
            ]
        eventually(lambda: health(stub).status == "healthy")
        assert broker.log().count("connections_full") == broker.log().count("connections_free") == 1


def test_more_calls_than_a_connection_may_have(data_dir):
    """They wait in the client. The broker may have a call more at hand, one that it has just answered."""
    with (
        Broker(data_dir, rpc_streams_per_connection_max=STREAMS_MAX) as broker,
        connected(broker.address) as stub,
    ):
        calls = [
            stub.HealthCheck.future(pb.HealthCheckRequest(), timeout=CALL_S_MAX)
            for _ in range(20 * STREAMS_MAX)
        ]
        assert {call.result().status for call in calls} == {"healthy"}


def test_many_calls_at_one_moment(data_dir):
    """More than gRPC takes in at one moment by itself, over several connections: all are answered."""
    with Broker(data_dir) as broker, ExitStack() as stack:
        stubs = [stack.enter_context(connected(broker.address)) for _ in range(4)]
        for _ in range(3):
            calls = [
                stub.HealthCheck.future(pb.HealthCheckRequest(), timeout=CALL_S_MAX)
                for _ in range(AT_ONCE // len(stubs))
                for stub in stubs
            ]
            assert {call.result().status for call in calls} == {"healthy"}
