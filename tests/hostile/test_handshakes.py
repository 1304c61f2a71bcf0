"""Many handshakes at once, most of which end in nothing."""

from __future__ import annotations

import itertools
import socket
from contextlib import ExitStack, suppress

import grpc
import pytest

from blackbox.broker_process import Broker
from certificates import Authority
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

STRANGERS = 40
BEGINNINGS = (b"", b"\x16\x03\x01\x02\x00\x01", b"garbage\r\n")
"""Silence, how a handshake of TLS begins, and none."""


@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_the_broker_outlives_them(data_dir, tmp_path, figures, rounds):
    """gRPC crashed where it was given the same certificates again while handshakes were under way."""
    authority = Authority()
    authority.issue().save(tmp_path)
    files = {"tls_certificate_file": tmp_path / "broker.pem", "tls_key_file": tmp_path / "broker.key"}
    settings = files | {"rpc_handshake_ms_max": 200}
    with Broker(data_dir, listen="tls://127.0.0.1:0", **settings) as broker:
        host, _, port = broker.address.removeprefix("tls://").rpartition(":")
        credentials = grpc.ssl_channel_credentials(authority.pem)
        for _ in range(rounds):
            with ExitStack() as crowd:
                strangers = [
                    crowd.enter_context(socket.create_connection((host, int(port)), 20))
                    for _ in range(STRANGERS)
                ]
                for stranger, said in zip(strangers, itertools.cycle(BEGINNINGS), strict=False):
                    stranger.sendall(said)
                with grpc.secure_channel(f"{host}:{port}", credentials) as channel:
                    told = TakhinServiceStub(channel).HealthCheck(
                        pb.HealthCheckRequest(), timeout=20, wait_for_ready=True
                    )
                    assert told.status == "healthy"
                for stranger in strangers:
                    with suppress(ConnectionResetError):
                        assert stranger.recv(1_024) == b""
    figures(f"{rounds * STRANGERS} handshakes that came to nothing")
