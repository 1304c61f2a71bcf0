"""The services beside takhin.v1: health, reflection, and a tool that knows nothing but reflection."""

from __future__ import annotations

import json
import queue
import subprocess
import sysconfig
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2 as health
from grpc_health.v1.health_pb2_grpc import HealthStub

from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, CHANNEL_OPTIONS, create_topic
from blackbox.reflection import VERSIONS, error_code_of, file_of, service_names
from blackbox.wire_table import SERVICE, DescribedClient, described_file

SERVING = health.HealthCheckResponse.SERVING
HEALTH_LIST = described_file(
    "grpc.health.v1",
    "Health",
    """
HealthListRequest:
HealthCheckResponse: status=1 int32
HealthListResponse: statuses=1 map<string,HealthCheckResponse>
""",
    "List: HealthListRequest -> HealthListResponse",
)
"""List is newer than many generated clients."""

BUF = Path(sysconfig.get_path("scripts")) / "buf"


@pytest.fixture
def channel(broker):
    with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
        yield channel


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_check_and_watch_say_serving(channel, service):
    """grpc.health.v1 Check and Watch answer SERVING for the whole server and for the service."""
    stub = HealthStub(channel)
    request = health.HealthCheckRequest(service=service)
    assert stub.Check(request, timeout=CALL_S_MAX).status == SERVING
    watch = stub.Watch(request, timeout=CALL_S_MAX)
    assert next(watch).status == SERVING
    watch.cancel()


def test_health_lists_its_services(channel):
    """grpc.health.v1 List names the whole server and the service."""
    client = DescribedClient(channel, HEALTH_LIST)
    statuses = client.List(client.messages.HealthListRequest(), timeout=CALL_S_MAX).statuses
    assert {"", SERVICE} <= set(statuses)
    assert {status.status for status in statuses.values()} == {SERVING}


def test_health_of_an_unknown_service_is_not_found(channel):
    """A health check with a misspelled service name is NOT_FOUND."""
    with pytest.raises(grpc.RpcError) as caught:
        HealthStub(channel).Check(health.HealthCheckRequest(service="takhin.v1.Takhin"), timeout=CALL_S_MAX)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "method",
    [f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in VERSIONS]
    + [f"grpc.health.v1.Health/{method}" for method in ("Check", "Watch", "List")]
    + [f"{SERVICE}/ConsumeMessages", f"{SERVICE}/ListTopics"],
)
def test_a_malformed_request_is_refused_and_not_logged(broker, channel, method):
    """Bytes that are no message are INVALID_ARGUMENT for every service, and no line in the log."""
    call = channel.stream_stream(f"/{method}")(iter([b"\xff"]), timeout=CALL_S_MAX)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert broker.log() == ""


@pytest.mark.parametrize("services", [["takhin.v1.Takhin"], ["", "nobody", SERVICE, "nobody", "x" * 1_000]])
def test_a_watch_delays_no_stop(data_dir, services):
    """A watch of a service that nobody knows ends at once when the broker stops, like every other."""
    with (
        Broker(data_dir, shutdown_grace_ms=20_000) as broker,
        grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel,
    ):
        watches = [HealthStub(channel).Watch(health.HealthCheckRequest(service=name)) for name in services]
        for watch in watches:
            next(watch)
        reflected = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        requests = queue.SimpleQueue()
        requests.put(b"\x3a\x00")  # list_services
        waiting = reflected(iter(requests.get, None))
        next(waiting)  # the call is under way
        assert broker.stop(seconds_max=5) == 0
        for watch in watches:
            assert next(watch).status == health.HealthCheckResponse.NOT_SERVING
        for call in (*watches, waiting):
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_lists_and_describes_the_service(channel, version):
    """Both versions of server reflection list the services and describe every method."""
    names = service_names(channel, version)
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    assert {f"grpc.reflection.{v}.ServerReflection" for v in VERSIONS} <= names
    (service,) = file_of(channel, version, SERVICE).service
    assert {"ProduceMessage", "ProduceMessageStream", "ConsumeMessages"} <= {m.name for m in service.method}


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_finds_every_kind_of_symbol(channel, version):
    """Reflection finds the file of a method, a message, a field, a map's entry, an enum and an enum value."""
    for name in (
        "TakhinService.ProduceMessage",
        "TakhinService.ConsumeMessages",
        "Record",
        "Record.key",
        "TopicInfo.PartitionsEntry",
        "ErrorCode",
        "ERROR_CODE_UNKNOWN_TOPIC",
    ):
        assert file_of(channel, version, f"takhin.v1.{name}").name == "takhin/v1/takhin.proto"
    health_file = file_of(channel, version, "grpc.health.v1.Health.Check")
    assert [service.name for service in health_file.service] == ["Health"]


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_does_not_find_unknown_symbols(channel, version):
    """An undefined symbol is answered with NOT_FOUND, as the protocol demands."""
    for symbol in (f"{SERVICE}.Produce", f"{SERVICE}.ProduceMessage.topic", "takhin.v1.Nothing", ""):
        assert error_code_of(channel, version, symbol) == grpc.StatusCode.NOT_FOUND.value[0]


def buf_curl(address, *args):
    """Run `buf curl` without a schema; returns the lines that it prints."""
    arguments = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *args]
    arguments[-1] = f"http://{address}{arguments[-1]}"
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not BUF.exists(), reason="buf (PyPI: buf-bin) is not installed")
def test_buf_curl_lists_and_calls_the_service(broker, stub):
    """A tool that has only reflection lists the methods, produces a record and reads it back."""
    create_topic(stub, "curled")
    assert SERVICE in buf_curl(broker.address, "--list-services", "").split()
    methods = buf_curl(broker.address, "--list-methods", "").split()
    assert f"{SERVICE}/ProduceMessage" in methods
    request = json.dumps({"topic": "curled", "record": {"key": "aw==", "value": "dmFsdWU="}})
    produced = json.loads(buf_curl(broker.address, "-d", request, f"/{SERVICE}/ProduceMessage"))
    assert (produced["topic"], produced["recordCount"]) == ("curled", 1)
    request = json.dumps({"topic": "curled", "offset": "-1", "stopAtEnd": True})
    consumed = json.loads(buf_curl(broker.address, "-d", request, f"/{SERVICE}/ConsumeMessages"))
    (record,) = consumed["records"]
    assert (record["key"], record["value"]) == ("aw==", "dmFsdWU=")
