"""A broker that runs out of file descriptors says so, and goes on when there are some again."""

from __future__ import annotations

import resource
from pathlib import Path

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, connected, create_topic, eventually, produce, refusal
from takhin.v1 import takhin_pb2 as pb


def descriptors_used(broker):
    return len(list(Path(f"/proc/{broker.pid}/fd").iterdir()))


def reasons(stub):
    return " ".join(stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX).reasons)


def test_a_broker_without_descriptors_says_so(broker, stub):
    """What cannot be opened is refused with the cause, health is degraded meanwhile, the rest is served."""
    create_topic(stub, "t")
    produce(stub, "t", [b"v"])
    limits = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
    used = descriptors_used(broker)
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (used, limits[1]))
    with pytest.raises(grpc.RpcError) as failed:
        stub.CreateTopic(pb.CreateTopicRequest(name="more"), timeout=CALL_S_MAX)
    assert refusal(failed.value).reason == "PARTITION_UNAVAILABLE"
    assert "file" in refusal(failed.value).sentence
    eventually(lambda: "file descriptor" in reasons(stub))
    produce(stub, "t", [b"v"])
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, limits)
    eventually(lambda: reasons(stub) == "")
    create_topic(stub, "more")
    produce(stub, "more", [b"v"])


def test_the_limit_is_raised_at_start(broker):
    """The broker takes as many descriptors as it may have."""
    soft, hard = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_limits_that_do_not_fit_are_said(data_dir):
    """Settings that may need more descriptors than there are get a warning with both numbers."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with Broker(data_dir, rpc_connections_max=hard) as broker, connected(broker.address) as stub:
        create_topic(stub, "t")
        assert "descriptors_few" in broker.log()
        assert f'"limit": {hard}' in broker.log()
