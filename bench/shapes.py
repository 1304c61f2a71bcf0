"""The two workloads that this service is best known by, in process: no network, no client, the real storage.

ProduceMessage with 1 KiB values over 4 partitions, 256 calls under way, each answered when its record is
durable (synchronous=FULL); the records have keys and the broker chooses the partition. And ListTopics with
50 topics. Both call the methods that gRPC calls, with request messages, and the figure is µs per call.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.common import Figures, arguments, begin, medians, say_durability, write_json
from bench.loads import payload
from takhin.broker.broker import Broker
from takhin.clock import system_clock
from takhin.rpc.calls import Call
from takhin.rpc.calls import begin as begin_call
from takhin.rpc.service import TakhinService
from takhin.settings import Settings
from takhin.storage.sqlite.engine import SqliteEngine
from takhin.v1 import takhin_pb2 as pb

PARTITIONS = 4
IN_FLIGHT = 256
VALUE_BYTES = 1_024
PRODUCE_CALLS = 20_000
TOPICS = 50
LIST_CALLS = 100_000


CALL = Call("/takhin.v1.TakhinService/ProduceMessage", "ipv4:127.0.0.1:40000", streams=False)
CONTEXT: Any = None
"""The methods use nothing of a call's context."""


def main() -> None:
    parser = arguments("shapes", repeat="runs")
    options = parser.parse_args()
    about = begin(options)
    held = say_durability(options.folder)
    shapes = {
        f"ProduceMessage, 1 KiB, {PARTITIONS} partitions, {IN_FLIGHT} in flight": produce,
        f"ListTopics, {TOPICS} topics": list_topics,
    }
    runs: dict[str, list[Figures]] = {title: [] for title in shapes}
    for _ in range(options.repeat):
        for title, shape in shapes.items():
            runs[title].append(asyncio.run(shape(options.folder, options.scale)))
    print(f"\nmedians of {options.repeat} runs")
    for title, figures in runs.items():
        print(f"{title:55}{medians(figures)['us_per_call']:8.2f} µs per call")
    if options.json:
        shown = {title: {"median": medians(figures), "runs": figures} for title, figures in runs.items()}
        write_json(options.json, {"machine": about, "durability": held, "shapes": shown})


async def produce(folder: Path, scale: float) -> Figures:
    """Measure calls of ProduceMessage, after a warm-up of a tenth of them."""
    async with _service(folder) as service:
        created = pb.CreateTopicRequest(name="shape", num_partitions=PARTITIONS)
        await service.CreateTopic(created, CONTEXT)
        calls = max(round(PRODUCE_CALLS * scale), 2 * IN_FLIGHT)
        await _produce_all(service, _requests(calls // 10))
        requests = _requests(calls)
        began = time.perf_counter()
        await _produce_all(service, requests)
        return {"us_per_call": (time.perf_counter() - began) / calls * 1e6}


def _requests(count: int) -> list[pb.ProduceMessageRequest]:
    """A message for each call as gRPC passes it: parsed from bytes, and never used before."""
    records = payload(1_000, VALUE_BYTES)
    wire = [
        pb.ProduceMessageRequest(
            topic="shape", partition=-1, record=pb.Record(key=key, value=value)
        ).SerializeToString()
        for key, value in zip(records.keys, records.values, strict=True)
    ]
    return [pb.ProduceMessageRequest.FromString(wire[number % len(wire)]) for number in range(count)]


async def _produce_all(service: TakhinService, requests: Sequence[pb.ProduceMessageRequest]) -> None:
    left = iter(requests)

    async def worker() -> None:
        for request in left:
            response = await service.ProduceMessage(request, CONTEXT)
            if response.offset < 0 or response.error:
                raise RuntimeError(response.error)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(worker())


async def list_topics(folder: Path, scale: float) -> Figures:
    """Measure calls of ListTopics, one after the other."""
    async with _service(folder) as service:
        for number in range(TOPICS):
            await service.CreateTopic(pb.CreateTopicRequest(name=f"topic-{number:02}"), CONTEXT)
        calls = max(round(LIST_CALLS * scale), 1_000)
        request = pb.ListTopicsRequest()
        began = time.perf_counter()
        for _ in range(calls):
            response = await service.ListTopics(request, CONTEXT)
        took = time.perf_counter() - began
        if len(response.topics) != TOPICS:
            raise RuntimeError(f"{len(response.topics)} topics were listed, not {TOPICS}")
        return {"us_per_call": took / calls * 1e6}


@asynccontextmanager
async def _service(folder: Path) -> AsyncIterator[TakhinService]:
    """The service over a real engine with an empty data folder, put together as the server does it."""
    settings = Settings()
    with tempfile.TemporaryDirectory(prefix="takhin-", dir=folder) as data_dir:
        engine = SqliteEngine(Path(data_dir), settings.storage, clock=system_clock)
        await engine.open()
        begin_call(CALL)
        try:
            yield TakhinService(Broker(engine, settings, clock=system_clock, version="bench"))
        finally:
            await engine.close()


if __name__ == "__main__":
    main()
