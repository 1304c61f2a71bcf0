"""What traces cost: batches and calls at a broker that traces, records of a client that does.

The two take turns, in changing order, and each figure is the median of the rounds' ratios. The collector is a
server of OTLP in this process, which takes the spans and drops them. "processor" is the time of the broker's
process, or of the client's thread, for the same work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from bench.common import Running, arguments, begin, new_data_dir, running, serve_command, write_json
from bench.loads import SMALL
from bench.process import cpu_seconds
from bench.takhin_client import batch_request, checked, client, flood
from takhin.client import Admin, Producer
from takhin.v1 import takhin_pb2 as pb

RATIO = 0.01
COST_MAX = 0.05
BATCHES, CALLS, RECORDS = 1_000, 1_000, 200_000
IN_FLIGHT = 32


class Cost(NamedTuple):
    """Seconds by the clock, and seconds of a processor."""

    clock: float
    cpu: float


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans and drops them."""

    def Export(self, request: object, context: object) -> trace_service_pb2.ExportTraceServiceResponse:  # noqa: N802
        return trace_service_pb2.ExportTraceServiceResponse()


def main() -> None:
    options = arguments("traces", repeat="rounds", times=10).parse_args()
    about = begin(options)
    with collector() as endpoint:
        provider = _provider(endpoint)
        trace.set_tracer_provider(provider)
        results = asyncio.run(_measured(options.folder, endpoint, options.repeat, options.scale))
        provider.shutdown()
    for name, value in results.items():
        print(f"{name:50} {value:8.1%}")
    print(f"traces of {RATIO:.0%} may cost {COST_MAX:.0%} of batches")
    if options.json:
        write_json(options.json, {"machine": about, "ratio": RATIO, "results": results})


@contextmanager
def collector() -> Iterator[str]:
    """A collector on loopback; yields its address."""
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None)


def _provider(endpoint: str) -> TracerProvider:
    """What a program that uses the client sets up."""
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(RATIO)))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return provider


async def _measured(folder: Path, endpoint: str, rounds: int, scale: float) -> dict[str, float]:
    flags = ("--traces-enabled", "--traces-endpoint", endpoint, "--traces-sample-ratio", str(RATIO))
    with (
        new_data_dir(folder) as plain_dir,
        new_data_dir(folder) as traced_dir,
        running(serve_command(plain_dir, ())) as plain,
        running(serve_command(traced_dir, flags)) as traced,
    ):
        for broker in (plain, traced):
            async with client(broker.address) as stub:
                checked(await stub.CreateTopic(pb.CreateTopicRequest(name="t")))

        async def batches(broker: Running) -> Cost:
            return await _cost(broker, lambda: _batches(broker, int(BATCHES * scale)))

        async def calls(broker: Running) -> Cost:
            return await _cost(broker, lambda: _calls(broker, int(CALLS * scale)))

        async def records(*, traces: bool) -> Cost:
            return await _records(plain.address, int(RECORDS * scale), traces=traces)

        pairs: dict[str, tuple[Callable[[], Awaitable[Cost]], Callable[[], Awaitable[Cost]]]] = {
            "broker, batches": (lambda: batches(plain), lambda: batches(traced)),
            "broker, calls": (lambda: calls(plain), lambda: calls(traced)),
            "client, records": (lambda: records(traces=False), lambda: records(traces=True)),
        }
        results = {}
        for name, (off, on) in pairs.items():
            costs = []
            for number in range(rounds + 1):
                if number % 2:
                    without, with_it = await off(), await on()
                else:
                    with_it, without = await on(), await off()
                if number:  # the first round warms both up
                    costs.append((without, with_it))
            results[f"{name}: clock"] = median(on.clock / off.clock for off, on in costs) - 1
            results[f"{name}: processor"] = median(on.cpu / off.cpu for off, on in costs) - 1
        return results


async def _cost(broker: Running, work: Callable[[], Awaitable[None]]) -> Cost:
    began, used = time.perf_counter(), cpu_seconds(broker.pid)
    await work()
    return Cost(time.perf_counter() - began, cpu_seconds(broker.pid) - used)


async def _batches(broker: Running, count: int) -> None:
    async with client(broker.address) as stub:
        requests = [batch_request("t", SMALL.payload()) for _ in range(count)]
        await flood(stub, requests, in_flight=SMALL.in_flight, answered=[])


async def _calls(broker: Running, count: int) -> None:
    requests = iter([pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"x" * 100))] * count)
    async with client(broker.address) as stub:

        async def caller() -> None:
            for request in requests:
                checked(await stub.ProduceMessage(request))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.create_task(caller())


async def _records(address: str, count: int, *, traces: bool) -> Cost:
    """Records one by one through the client."""
    value = bytes(100)
    async with Admin(address) as admin:
        topic = f"records-{time.monotonic_ns()}"
        await admin.create_topic(topic)
        began, used = time.perf_counter(), time.thread_time()
        async with Producer(address, traces=traces) as producer:
            for _ in range(count):
                await producer.send(topic, value)
        cost = Cost(time.perf_counter() - began, time.thread_time() - used)
        await admin.delete_topic(topic)
        return cost


if __name__ == "__main__":
    main()
