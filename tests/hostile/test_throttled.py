"""Produce streams that are over a quota: what they have sent does not wait in the broker's memory."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import repeat

import grpc
import pytest

from blackbox.broker_process import Broker, resident_bytes
from blackbox.clients import batch, connected, create_topic, end_offset, produce
from hostile.peaks import forget_peak
from hostile.relay import Relay

MESSAGE_BYTES = 4 << 20
QUOTA = 2 << 20
RSS_MAX = 512 << 20
OTHER_ADDRESS = "127.0.0.2"
CHANNELS = 8


@pytest.mark.parametrize(
    ("streams", "seconds"), [(140, 1.0), pytest.param(200, 20.0, marks=pytest.mark.soak)]
)
def test_what_throttled_streams_send_does_not_pile_up(data_dir, figures, streams, seconds):
    """Each sends 4 MB again and again, over its quota: 512 MB are enough, and others are served."""
    settings = {"quotas_address_produced_bytes_per_s": QUOTA}
    with (
        Broker(data_dir, **settings) as broker,
        Relay(broker.address, OTHER_ADDRESS) as relay,
        connected(relay.address) as other,
        ExitStack() as stack,
    ):
        create_topic(other, "t")
        create_topic(other, "honest")
        before = forget_peak(broker)
        stubs = [stack.enter_context(connected(broker.address)) for _ in range(CHANNELS)]
        large = batch("t", [bytes(MESSAGE_BYTES >> 2)] * 4)
        calls = [stubs[n % CHANNELS].ProduceMessageStream(repeat(large)) for n in range(streams)]
        with ThreadPoolExecutor(streams) as threads:
            answered = [threads.submit(answers, call) for call in calls]
            begin, slowest = time.monotonic(), 0.0
            while time.monotonic() < begin + seconds:
                sent = time.monotonic()
                produce(other, "honest", [b"v"])
                slowest = max(slowest, time.monotonic() - sent)
                time.sleep(0.01)
            peak = resident_bytes(broker, "VmHWM")
            for call in calls:
                call.cancel()
            assert all(not error for each in answered for error in each.result())
        taken = end_offset(other, "t")
    figures(
        f"{streams} throttled streams of 4 MB: +{(peak - before) >> 20} MiB, {taken >> 2} requests taken, "
        f"an honest call took {slowest:.2f} s at most"
    )
    assert peak <= RSS_MAX


def answers(call):
    """The errors in the answers of a stream until it is cancelled."""
    found = []
    with pytest.raises(grpc.RpcError) as ended:
        found.extend(answer.error for answer in call)
    assert ended.value.code() is grpc.StatusCode.CANCELLED
    return found
