"""A partition whose file another program locks: a bounded wait, a named error, no effect on others."""

from __future__ import annotations

import time

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import (
    CALL_S_MAX,
    batch,
    connected,
    create_topic,
    end_offset,
    error_name,
    produce,
    read_all,
    refusal,
)
from blackbox.foreign_lock import ForeignLock

BUSY_WAIT_MS_MAX = 1_000


@pytest.fixture
def broker(data_dir):
    """A broker that waits a second for a locked file."""
    with Broker(data_dir, storage_busy_wait_ms_max=BUSY_WAIT_MS_MAX) as broker:
        yield broker


@pytest.fixture
def stub(broker):
    with connected(broker.address) as stub:
        create_topic(stub, "topic", 2)
        yield stub


@pytest.mark.timed
def test_past_timeout_ms_the_outcome_is_unknown(broker, stub):
    """timeout_ms limits the wait; the error says that the records may still become durable."""
    with ForeignLock(broker.partition_file("topic")):
        request = batch("topic", [b"late"])
        request.timeout_ms = 100
        began = time.monotonic()
        response = stub.ProduceMessage(request, timeout=CALL_S_MAX)
        assert (error_name(response), response.offset) == ("OUTCOME_UNKNOWN", -1)
        assert 0.09 < time.monotonic() - began < BUSY_WAIT_MS_MAX / 1_000
    assert produce(stub, "topic", [b"next"]) in (0, 1)
    values = [record.value for record in read_all(stub, "topic")]
    assert values in ([b"late", b"next"], [b"next"])


def test_a_locked_partition_is_unavailable_by_name(broker, stub):
    """After the busy wait the error is UNAVAILABLE with a reason, in band on a stream; the rest goes on."""
    produce(stub, "topic", [b"first"])
    with ForeignLock(broker.partition_file("topic")):
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            produce(stub, "topic", [b"refused"])
        assert time.monotonic() - began < BUSY_WAIT_MS_MAX / 1_000 + 2
        refused = refusal(caught.value)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "PARTITION_UNAVAILABLE")
        assert "topic" in refused.sentence
        requests = [batch("topic", [b"refused"]), batch("topic", [b"taken"], partition=1)]
        responses = stub.ProduceMessageStream(iter(requests), timeout=CALL_S_MAX)
        assert [error_name(response) for response in responses] == ["PARTITION_UNAVAILABLE", ""]
        assert [record.value for record in read_all(stub, "topic")] == [b"first"]
    assert produce(stub, "topic", [b"second"]) == 1
    assert [record.value for record in read_all(stub, "topic")] == [b"first", b"second"]


def test_other_partitions_do_not_wait(data_dir):
    """While one partition waits for its file, the broker's other partitions go on."""
    with (
        Broker(data_dir, storage_busy_wait_ms_max=20_000) as broker,
        connected(broker.address) as stub,
    ):
        create_topic(stub, "topic", 2)
        with ForeignLock(broker.partition_file("topic")) as lock:
            waiting = stub.ProduceMessage.future(batch("topic", [b"waits"]), timeout=CALL_S_MAX)
            for number in range(50):
                assert produce(stub, "topic", [b"v"], partition=1) == number
            assert not waiting.done(), "fifty commits beside it took longer than the busy wait"
            lock.release()
            assert waiting.result().offset == 0
        assert end_offset(stub, "topic", 1) == 50
