"""A record's trace: from the program that sends it through the broker to the one that processes it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from client.support import ALL
from takhin.client import Admin, Consumer, Producer, sync
from takhin.client.tracing import LINKS_MAX, context_in, processing
from takhin.errors import TakhinError

SERVICE = "takhin.v1.TakhinService"
TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = TRACEPARENT[:-1] + b"0"
BROKER_WITH_TRACES = """
from takhin.config import load
from takhin.server import Server
Server(load({'traces.enabled': 'true'}, {}, None).settings)
"""


@pytest.fixture
async def topic(traced, request):
    name = request.node.name.replace("[", "-").replace("]", "")
    async with Admin(traced.address) as admin:
        await admin.create_topic(name)
    return name


async def read(server, topic, *, traces=True):
    async with Consumer(server, traces=traces) as consumer:
        await consumer.assign_topics(topic, start=ALL)
        return [record async for record in consumer]


def id_of(span):
    return f"{span.context.span_id:016x}"


def links_of(span):
    return [f"{link.context.span_id:016x}" for link in span.links]


async def test_across_the_log(traced, collector, made, topic):
    """One trace holds what sent the record, what the broker did, and what processed it."""
    group = f"{topic}-group"
    tracer = trace.get_tracer("a program")
    async with Producer(traced.address, traces=True) as producer:
        with tracer.start_as_current_span("handle a request") as root:
            delivery = await producer.send(topic, b"value", headers=[("own", b"1")])
        stored = await delivery
    trace_id = f"{root.get_span_context().trace_id:032x}"
    async with Consumer(
        traced.address, group_id=group, topics=[topic], reset="earliest", traces=True
    ) as consumer:
        record = await anext(consumer)
        with processing(record, group_id=group) as span:
            assert trace.get_current_span() is span
            await consumer.commit(record)
    create, send, receive, process, commit, *_ = (
        made(f"{operation} {of}")[0]
        for operation, of in [
            *((operation, topic) for operation in ("create", "send", "receive", "process")),
            ("commit", group),
        ]
    )
    assert {f"{of.context.trace_id:032x}" for of in (create, send, receive, process, commit)} == {trace_id}
    assert create.parent.span_id == root.get_span_context().span_id
    assert send.parent.span_id == receive.parent.span_id == process.parent.span_id == create.context.span_id
    assert links_of(send) == links_of(receive) == links_of(process) == [id_of(create)]
    assert commit.parent.span_id == process.context.span_id
    kinds = [of.kind for of in (create, send, receive, process, commit)]
    assert kinds == [SpanKind.PRODUCER, SpanKind.CLIENT, SpanKind.CLIENT, SpanKind.CONSUMER, SpanKind.CLIENT]
    host, _, port = traced.address.rpartition(":")
    assert dict(send.attributes) == {
        "messaging.system": "takhin",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": "0",
        "messaging.batch.message_count": 1,
        "messaging.takhin.offset": stored.offset,
        "server.address": host,
        "server.port": int(port),
    }
    assert process.attributes["messaging.consumer.group.name"] == group
    assert record.headers[0] == ("own", b"1")
    assert context_in(record.headers).span_id == create.context.span_id
    calls = collector.wait(f"{SERVICE}/ProduceMessage", f"{SERVICE}/CommitOffset")
    (produced,) = (of for of in calls if of.parent_id == id_of(send))
    (committed,) = (of for of in calls if of.parent_id == id_of(commit))
    assert {produced.trace_id, committed.trace_id} == {trace_id}
    assert produced.resource["service.name"] == "takhin"
    assert produced.resource["deployment.environment.name"] == "tests"
    about = {
        name: produced.attributes[name] for name in produced.attributes if not name.startswith("client.")
    }
    assert about == {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/ProduceMessage",
        "rpc.response.status_code": "OK",
    }
    assert produced.attributes["client.address"] == "127.0.0.1"


async def test_many_records_of_many_requests(traced, made, topic):
    """Each has a span of its own; a request is linked to as many as there may be."""
    tracer = trace.get_tracer("a program")
    count = LINKS_MAX + 10
    async with Producer(traced.address, traces=True, linger_ms=100) as producer:
        for number in range(count):
            with tracer.start_as_current_span("handle"):
                await producer.send(topic, b"%d" % number)
    creates, sends = made(f"create {topic}"), made(f"send {topic}")
    assert len(creates) == count
    assert sum(of.attributes["messaging.batch.message_count"] for of in sends) == count
    assert {link for of in sends for link in links_of(of)} <= set(map(id_of, creates))
    records = await read(traced.address, topic)
    assert [f"{context_in(of.headers).span_id:016x}" for of in records] == list(map(id_of, creates))


async def test_a_header_of_the_program_stays(traced, made, topic):
    """Whoever sets traceparent knows why; the record has it once, and no span."""
    async with Producer(traced.address, traces=True) as producer:
        await producer.append(topic, [(b"v", None, [("traceparent", TRACEPARENT)])], partition=0)
    (record,) = await read(traced.address, topic)
    assert record.headers == [("traceparent", TRACEPARENT)]
    assert not made(f"create {topic}")
    (receive,) = made(f"receive {topic}")
    assert links_of(receive) == ["b7ad6b7169203331"]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
        TRACEPARENT * 1_000,
        UNSAMPLED,
    ],
    ids=["empty", "garbage", "binary", "zeros", "long", "unsampled"],
)
async def test_headers_that_make_no_trace(traced, made, topic, value):
    """They are passed on as they are; a program that processes such a record begins a trace of its own."""
    async with Producer(traced.address) as producer:
        await producer.append(topic, [(b"v", None, [("traceparent", value)])], partition=0)
    (record,) = await read(traced.address, topic)
    assert not made(f"receive {topic}")
    with processing(record) as span:
        assert span.get_span_context().is_valid
    assert record.headers == [("traceparent", value)]


async def test_what_is_not_sampled_costs_nothing_on_the_wire(traced, sampler, made, topic):
    """No header, no span; and the sampler is asked for few of many records."""
    sampler.wanted = False
    async with Producer(traced.address, traces=True) as producer:
        with trace.get_tracer("a program").start_as_current_span("unsampled"):
            await producer.append(topic, [b"value"] * 5_000, partition=0)
        asked = sampler.asked
        await producer.append(topic, [b"value"] * 5_000, partition=0)
    assert asked == 1
    assert 1 <= sampler.asked - asked < 1_000
    assert not any(record.headers for record in await read(traced.address, topic))
    assert not made()


async def test_without_traces_nothing_is_made(traced, made, topic):
    """A client that was not asked for traces makes none, whatever is set up."""
    with trace.get_tracer("a program").start_as_current_span("handle"):
        async with Producer(traced.address) as producer:
            await producer.append(topic, [b"value"], partition=0)
        (record,) = await read(traced.address, topic, traces=False)
    assert record.headers == ()
    assert [span.name for span in made()] == ["handle"]


async def test_a_record_that_a_header_makes_too_large(traced, made, topic):
    """It is sent without the header."""
    async with Admin(traced.address) as admin:
        await admin.alter_topic(topic, configs={"max.message.bytes": "1000"})
    async with Producer(traced.address, traces=True) as producer:
        await producer.append(topic, [b"x" * 990], partition=0)
    (record,) = await read(traced.address, topic)
    assert record.headers == ()


async def test_failures_are_noted(traced, made, topic):
    """A request that is refused, and what a program's own code raises."""
    async with Producer(traced.address, traces=True) as producer:
        with pytest.raises(TakhinError):
            await producer.append(topic, [b"value"], partition=0, expected_offset=7)
    (send,) = made(f"send {topic}")
    assert not send.status.is_ok
    assert send.attributes["error.type"] == "EndOffsetMismatchError"
    async with Producer(traced.address) as producer:
        await producer.append(topic, [b"value"], partition=0)
    (record,) = await read(traced.address, topic)
    with pytest.raises(ZeroDivisionError), processing(record):
        raise ZeroDivisionError
    (process,) = made(f"process {topic}")
    assert process.attributes["error.type"] == "ZeroDivisionError"


def test_the_blocking_face(traced, made, request):
    """The context is that of the thread that sends."""
    topic = request.node.name
    with sync.Admin(traced.address) as admin:
        admin.create_topic(topic)
    tracer = trace.get_tracer("a program")
    with sync.Producer(traced.address, traces=True) as producer, tracer.start_as_current_span("h") as root:
        producer.send(topic, b"value").result()
    with sync.Consumer(traced.address, traces=True) as consumer:
        consumer.assign_topics(topic, start=ALL)
        (record,) = list(consumer)
    assert context_in(record.headers).trace_id == root.get_span_context().trace_id


async def test_compressed_and_traced(traced, made, topic):
    """Both at once."""
    tracer = trace.get_tracer("a program")
    async with Producer(traced.address, traces=True, compression="zstd") as producer:
        with tracer.start_as_current_span("handle") as root:
            await producer.append(topic, [b"value" * 100] * 100, partition=0)
    async with Consumer(traced.address, traces=True, compression="zstd") as consumer:
        await consumer.assign_topics(topic, start=ALL)
        records = [record async for record in consumer]
    trace_id = root.get_span_context().trace_id
    assert {context_in(record.headers).trace_id for record in records} == {trace_id}
    assert len(made(f"receive {topic}")) == 1


@pytest.mark.parametrize("module", ["takhin.client, takhin.client.sync", "takhin.server", "takhin.cli.main"])
def test_nothing_of_it_is_imported(module):
    """OpenTelemetry is loaded where it is asked for, and not before."""
    code = f"import sys, {module}; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("from takhin.client import Producer; Producer('127.0.0.1:1', traces=True)", "traces=True needs"),
        (BROKER_WITH_TRACES, "traces.enabled is true, but"),
    ],
    ids=["client", "broker"],
)
def test_where_it_is_not_installed(code, said):
    """Both say what to install."""
    absent = "import sys; sys.modules['opentelemetry'] = None\n"
    done = subprocess.run([sys.executable, "-c", absent + code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert re.search(r"pip install '\.\[(server,)?otel\]'", done.stderr)
