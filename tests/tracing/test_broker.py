"""The broker's own spans, and a collector that is not there, or does not answer."""

from __future__ import annotations

import json
import time

import grpc
import pytest

from access.support import EVERYTHING, Keeper, bearer
from blackbox.broker_process import Broker, resident_bytes
from blackbox.clients import batch, connected, create_topic, produce
from takhin.v1 import takhin_pb2 as pb
from tracing.collector import Collector

SERVICE = "takhin.v1.TakhinService"
NOBODY = "http://127.0.0.1:9"
PARENT = "00-{:032x}-{:016x}-{:02x}"
ALL_CALLS = {"traces_enabled": "true", "traces_sample_ratio": 1}


@pytest.fixture
def soon(monkeypatch):
    """Spans are sent as they come."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


def warnings_in(log):
    return [json.loads(line) for line in log.splitlines() if '"warning"' in line]


def test_which_calls_are_traced(traced, collector):
    """Those whose client traces them, here; a parent that is not sampled or makes no sense is none."""
    said = {
        "sampled": PARENT.format(1, 1, 1),
        "unsampled": PARENT.format(2, 1, 0),
        "garbage": "00-xyz",
        "long": "0" * 5_000,
        "zeros": PARENT.format(0, 0, 1),
    }
    with connected(traced.address) as stub:
        for traceparent in said.values():
            stub.ListTopics(pb.ListTopicsRequest(), metadata=(("traceparent", traceparent),))
        stub.ListTopics(pb.ListTopicsRequest())
        stub.ListConsumerGroups(
            pb.ListConsumerGroupsRequest(), metadata=(("traceparent", PARENT.format(3, 1, 1)),)
        )
    collector.wait(f"{SERVICE}/ListConsumerGroups")  # it came last
    (span,) = (span for span in collector.spans if span.name == f"{SERVICE}/ListTopics")
    assert (span.trace_id, span.parent_id, span.kind) == (f"{1:032x}", f"{1:016x}", 2)


def test_who_proves_nothing_decides_nothing(data_dir, soon):
    """Where callers have to prove who they are, no trace is joined, or made, because another wants it."""
    data_dir.mkdir()
    keeper = Keeper(data_dir)
    token = keeper.token()
    keeper.rules(*EVERYTHING)
    settings = {"access_enabled": "true", "access_open": "health", "traces_enabled": "true"}
    with Collector() as collector:
        settings |= {"traces_endpoint": collector.endpoint, "traces_sample_ratio": 0}
        with Broker(data_dir, **settings) as broker, connected(broker.address) as stub:
            for proof in ([], bearer("tkn_0"), bearer(token)):
                metadata = [("traceparent", PARENT.format(1, 1, 1)), *proof]
                stub.HealthCheck(pb.HealthCheckRequest(), metadata=metadata)
                call = stub.ListTopics.future(pb.ListTopicsRequest(), metadata=metadata)
                assert (call.exception() is None) == (proof == bearer(token))
            assert broker.stop() == 0
        spans = collector.spans
        assert {span.name for span in spans} == {f"{SERVICE}/ListTopics", f"{SERVICE}/HealthCheck"}
        assert [(span.trace_id, span.attributes["user.name"]) for span in spans] == [(f"{1:032x}", "me")] * 2


def test_how_calls_end(traced, collector):
    """A client's mistake is no error of the server; a stream says how many messages there were."""
    metadata = (("traceparent", PARENT.format(9, 9, 1)),)
    with connected(traced.address) as stub:
        create_topic(stub, "ends")
        produce(stub, "ends", [b"one", b"two"])
        stub.DeleteTopic(pb.DeleteTopicRequest(name="unknown"), metadata=metadata)
        with pytest.raises(grpc.RpcError):
            list(stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="unknown"), metadata=metadata))
        read = pb.ConsumeMessagesRequest(topic="ends", offset=-1, stop_at_end=True)
        list(stub.ConsumeMessages(read, metadata=metadata))
        tail = stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="ends", offset=-1), metadata=metadata)
        next(tail)
        tail.cancel()
        requests = [batch("ends", [b"v"])] * 3
        list(stub.ProduceMessageStream(iter(requests), metadata=metadata))
        stub.GetTopic(pb.GetTopicRequest(name="ends"), metadata=metadata)
    collector.wait(f"{SERVICE}/GetTopic", f"{SERVICE}/ProduceMessageStream")
    found = [span for span in collector.spans if span.parent_id == f"{9:016x}"]
    assert not any(span.failed for span in found)
    (deleted,) = (span for span in found if span.name.endswith("DeleteTopic"))
    assert deleted.attributes["rpc.response.status_code"] == "OK"
    assert deleted.attributes["takhin.error_code"] == "UNKNOWN_TOPIC"
    consumed = [span.attributes for span in found if span.name.endswith("ConsumeMessages")]
    statuses = {of["rpc.response.status_code"]: of["takhin.messages_sent"] for of in consumed}
    assert statuses.keys() == {"NOT_FOUND", "OK", "CANCELLED"}
    assert statuses["OK"] >= 1
    (streamed,) = (span for span in found if span.name.endswith("ProduceMessageStream"))
    assert [streamed.attributes[f"takhin.messages_{of}"] for of in ("received", "sent")] == [3, 3]


def test_the_environment(data_dir, monkeypatch, soon):
    """OpenTelemetry's own variables: where spans go, what is sampled, and how the service is called."""
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "orders-broker")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        with Broker(data_dir, traces_enabled="true", traces_sample_ratio=0) as broker:
            with connected(broker.address) as stub:
                stub.ListTopics(pb.ListTopicsRequest())
            (span,) = collector.wait(f"{SERVICE}/ListTopics")
        assert span.resource["service.name"] == "orders-broker"
        seen = len(collector.spans)
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        with Broker(data_dir, **ALL_CALLS) as broker, connected(broker.address) as stub:
            stub.ListTopics(pb.ListTopicsRequest())
        assert len(collector.spans) == seen


def test_the_last_spans_are_sent_at_the_stop(data_dir):
    """They would wait for five seconds else."""
    with Collector() as collector:
        with Broker(data_dir, traces_endpoint=collector.endpoint, **ALL_CALLS) as broker:
            with connected(broker.address) as stub:
                stub.ListTopics(pb.ListTopicsRequest())
            begin = time.monotonic()
            assert broker.stop() == 0
            assert time.monotonic() - begin < 4
        assert [span.name for span in collector.spans] == [f"{SERVICE}/ListTopics"]


@pytest.mark.parametrize("hangs", [False, True], ids=["not-there", "hangs"])
def test_a_collector_that_takes_nothing(data_dir, soon, hangs):
    """Calls are served, the queue is bounded, the log stays short, and the stop is in time."""
    with Collector(hangs=True) as collector:
        endpoint = collector.endpoint if hangs else NOBODY
        settings = {"traces_endpoint": endpoint, "traces_queue_spans_max": 20, "traces_export_ms_max": 1_000}
        with Broker(data_dir, **ALL_CALLS, **settings) as broker, connected(broker.address) as stub:
            create_topic(stub, "busy")
            before = resident_bytes(broker)
            for _ in range(300):
                produce(stub, "busy", [b"value"])
            assert resident_bytes(broker) - before < 30 << 20
            begin = time.monotonic()
            assert broker.stop() == 0
            assert time.monotonic() - begin < 6
            events = [line["event"] for line in warnings_in(broker.log())]
            assert len(events) <= 3
            assert set(events) <= {"traces_not_sent", "traces_lost"}
            assert len(broker.log().splitlines()) < 8


@pytest.mark.parametrize("endpoint", ["nonsense", "127.0.0.1:4317"])
def test_an_endpoint_that_is_none(data_dir, endpoint):
    """The broker serves all the same."""
    with Broker(data_dir, traces_endpoint=endpoint, traces_export_ms_max=500, **ALL_CALLS) as broker:
        with connected(broker.address) as stub:
            stub.ListTopics(pb.ListTopicsRequest())
        assert broker.stop() == 0
