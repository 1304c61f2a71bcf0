"""Consumers that never read what they asked for."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest

from blackbox.broker_process import Broker, resident_bytes
from blackbox.clients import connected, create_topic, produce
from hostile import frames
from hostile.honest import Honest
from hostile.peaks import forget_peak
from takhin.v1 import takhin_pb2 as pb

CONSUMERS = 50
TOPIC_BYTES = 32 << 20
RSS_MORE_MAX = 100 << 20
SLOWER_MAX = 2.0
ENOUGH_S = 60
"""In less time there are too few calls for a p99."""
ROOM_MS = 20
"""Below this a p99 says more about the machine than about the broker."""
WIDE_OPEN = frames.PREFACE + frames.frame(frames.SETTINGS, payload=b"\x00\x04\x7f\xff\xff\xff")
"""The hello of a client that lets the server send two gigabytes in each stream."""


def consume_without_reading(address: str, connection: socket.socket) -> None:
    """Ask for a topic from its beginning, in large responses, and open every window."""
    request = pb.ConsumeMessagesRequest(topic="large", offset=-1, max_bytes=8 << 20).SerializeToString()
    block = frames.headers("/takhin.v1.TakhinService/ConsumeMessages")
    connection.sendall(
        frames.frame(frames.WINDOW_UPDATE, payload=(0x7FFF0000).to_bytes(4, "big"))
        + frames.frame(frames.HEADERS, flags=frames.END_HEADERS, stream=1, payload=block)
        + frames.frame(frames.DATA, flags=frames.END_STREAM, stream=1, payload=frames.message(request))
    )


@pytest.mark.parametrize(
    "seconds", [3.0, pytest.param(600.0, marks=[pytest.mark.soak, pytest.mark.timeout(1_200)])]
)
def test_consumers_that_never_read(data_dir, figures, seconds):
    """50 of them take 100 MiB at most, and others are served at half their speed or better."""
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        create_topic(stub, "large")
        for _ in range(TOPIC_BYTES >> 22):
            produce(stub, "large", [bytes(256 << 10)] * 16)
        with Honest(broker.address) as alone:
            time.sleep(seconds / 3)
        before = forget_peak(broker)
        with ExitStack() as stack, Honest(broker.address) as beside:
            for _ in range(CONSUMERS):
                connection = stack.enter_context(frames.connect(broker.address, WIDE_OPEN))
                consume_without_reading(broker.address, connection)
            time.sleep(seconds)
        more = resident_bytes(broker, "VmHWM") - before
    slower = beside.quantile_ms(0.99) / max(alone.quantile_ms(0.99), ROOM_MS)
    figures(
        f"{CONSUMERS} that never read, {seconds:.0f} s: +{more >> 20} MiB; alone {alone.line()}; "
        f"beside them {beside.line()}"
    )
    assert not beside.failures
    assert more <= RSS_MORE_MAX
    assert slower <= SLOWER_MAX or seconds < ENOUGH_S
