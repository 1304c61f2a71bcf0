"""What metrics cost: two brokers with the same 1,000 partitions, one with metrics and a scraper, in turns.

Each round sends the same requests to both, first to the one and then to the other, in changing order: batches
over a stream, then calls of one record. The shares are medians of the rounds' ratios. The one with metrics is
scraped every five seconds all the time, three times as often as Prometheus does by itself. The exit code is 1
if a bound that is printed is not kept.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import Any, NamedTuple

from bench.common import (
    Running,
    arguments,
    begin,
    free_port,
    new_data_dir,
    running,
    serve_command,
    write_json,
)
from bench.loads import SMALL
from bench.process import cpu_seconds
from bench.takhin_client import batch_request, checked, client, flood
from takhin.v1 import takhin_pb2 as pb

SHARE_MIN = 0.97
SCRAPE_MS_MAX = 50.0
TOPICS, PARTITIONS = 10, 100
SCRAPE_SECONDS = 5.0
IN_FLIGHT = 32
ASK = b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\nAccept-Encoding: gzip\r\n\r\n"


class Side(NamedTuple):
    """One of the two brokers. port: of its metrics; 0: it has none."""

    process: Running
    stub: Any
    port: int


class Cost(NamedTuple):
    """What some requests took: seconds by the clock, and seconds of the broker on a processor."""

    clock: float
    cpu: float


def main() -> None:
    parser = arguments("metrics", repeat="rounds", times=10)
    options = parser.parse_args()
    about = begin(options)
    results = asyncio.run(_measured(options.folder, options.repeat, options.scale))
    for name, value in results.items():
        print(f"{name:40} {value:8.3f}")
    if options.json:
        write_json(options.json, {"machine": about, "results": results})
    kept = all(value >= SHARE_MIN for name, value in results.items() if name.endswith("rate with / without"))
    kept = kept and results["scrape_p50_ms"] <= SCRAPE_MS_MAX
    print(f"rates with metrics >= {SHARE_MIN} of those without, scrapes <= {SCRAPE_MS_MAX} ms: {kept}")
    if not kept:
        sys.exit(1)


async def _measured(folder: Any, rounds: int, scale: float) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        port = free_port()
        plain = await stack.enter_async_context(_side(folder, 0))
        shown = await stack.enter_async_context(_side(folder, port))
        scrapes: list[float] = []
        scraper = asyncio.create_task(_scrape(port, scrapes))
        loads: dict[str, Callable[[Side], Coroutine[Any, Any, None]]] = {
            "batches": lambda side: _batches(side, max(1, int(1_500 * scale))),
            "calls": lambda side: _calls(side, max(1, int(1_500 * scale))),
        }
        found: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in loads}
        for at in range(rounds + 1):
            for name, load in loads.items():
                order = [plain, shown] if at % 2 else [shown, plain]
                costs = {side.port: await _cost(side, load) for side in order}
                if at:  # the first round warms both up
                    found[name].append((costs[0], costs[port]))
        scraper.cancel()
        results = {}
        for name, pairs in found.items():
            results[f"{name}: rate with / without"] = median(of.clock / on.clock for of, on in pairs)
            results[f"{name}: processor with / without"] = median(on.cpu / of.cpu for of, on in pairs)
        results["scrape_p50_ms"] = 1e3 * median(scrapes)
        results["scrape_max_ms"] = 1e3 * max(scrapes)
        return results


@asynccontextmanager
async def _side(folder: Any, port: int) -> AsyncIterator[Side]:
    """A broker with the partitions, and a group that has read all of them."""
    flags = ["--metrics-listen", f"127.0.0.1:{port}"] if port else []
    with new_data_dir(folder) as data_dir, running(serve_command(data_dir, flags)) as process:
        async with client(process.address) as stub:
            for n in range(TOPICS):
                checked(
                    await stub.CreateTopic(pb.CreateTopicRequest(name=f"t{n}", num_partitions=PARTITIONS))
                )
                offsets = [
                    pb.TopicPartitionOffset(topic=f"t{n}", partition=at, offset=0) for at in range(PARTITIONS)
                ]
                checked(await stub.CommitOffset(pb.CommitOffsetRequest(group_id="group", offsets=offsets)))
            yield Side(process, stub, port)


async def _cost(side: Side, load: Callable[[Side], Coroutine[Any, Any, None]]) -> Cost:
    began, used = time.perf_counter(), cpu_seconds(side.process.pid)
    await load(side)
    return Cost(time.perf_counter() - began, cpu_seconds(side.process.pid) - used)


async def _scrape(port: int, took: list[float]) -> None:
    """Ask for the metrics again and again, as Prometheus does."""
    while True:
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASK)
        await reader.read()
        writer.close()
        took.append(time.perf_counter() - began)
        await asyncio.sleep(SCRAPE_SECONDS)


async def _batches(side: Side, count: int) -> None:
    batch = SMALL.payload()
    requests = [batch_request("t0", batch) for _ in range(count)]
    await flood(side.stub, requests, in_flight=SMALL.in_flight, answered=[])


async def _calls(side: Side, count: int) -> None:
    requests = iter([pb.ProduceMessageRequest(topic="t1", record=pb.Record(value=b"x" * 100))] * count)

    async def caller() -> None:
        for request in requests:
            checked(await side.stub.ProduceMessage(request))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(caller())


if __name__ == "__main__":
    main()
