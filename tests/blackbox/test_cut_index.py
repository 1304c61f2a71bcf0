"""The -shm of a partition that another program cuts short while the broker has it open."""

from __future__ import annotations

from contextlib import suppress
from signal import SIGBUS

import grpc

from blackbox.broker_process import Broker
from blackbox.clients import connected, create_topic, end_offset, produce


def test_nothing_acknowledged_is_lost(data_dir):
    """The system ends the broker, since the file is its memory; all that was acknowledged is there again."""
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        create_topic(stub, "topic")
        produce(stub, "topic", [b"x"] * 100)
        index = broker.partition_file("topic").with_name("0.db-shm")
        index.write_bytes(b"")
        with suppress(grpc.RpcError, AssertionError):
            produce(stub, "topic", [b"y"])
        assert broker.wait(20) == -SIGBUS
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        assert end_offset(stub, "topic") in (100, 101)
