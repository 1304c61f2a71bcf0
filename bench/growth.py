"""The same load as one thing grows: the log, the number of partitions, or the number of tailing consumers.

The load is 100 B values, 1,000 a request, 8 requests unanswered over one stream, default settings. Every
figure is from one run, and reads find the file in the system's cache as far as memory allows. The program
prints tables; it writes growth.json and, if matplotlib is installed, the chart growth.svg.

size         One log grows in one broker. At each size: the rate of the last stretch before it, the rate of
             reads from random offsets, the time from a consume call to its first 1,000 records, memory, disk.
partitions   Requests go round robin over them. Then the broker is stopped and started on the same folder;
             what it uses is shown for both, after producing and after the start.
tails        One producer at full speed, one partition, consumers that tail it on connections of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from bench.common import (
    Figures,
    Running,
    arguments,
    begin,
    can_draw,
    latencies,
    new_data_dir,
    running,
    say_durability,
    serve_command,
    write_json,
)
from bench.loads import LARGE
from bench.process import cpu_seconds, descriptors, peak_rss_bytes, rss_bytes
from bench.tails import consumers, received_per_s, tailing
from bench.takhin_client import batch_request, checked, client, flood, new_topic, read_values
from takhin.v1 import takhin_pb2 as pb

SIZES = (100_000, 1_000_000, 10_000_000, 20_000_000)
STRETCH_RECORDS = 1_000_000
READS = 5
READ_RECORDS_MAX = 200_000
FIRST_BATCHES = 50

PARTITIONS = (1, 10, 100, 1_000)
PARTITION_RECORDS = 3_000_000
"""Over all partitions together."""
IDLE_SECONDS = 5

TAILS = (1, 10, 100, 200)
TAIL_SECONDS = 10

WARM_UP_REQUESTS = 20
TOPIC = "growth"

COLUMNS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "size": {
        "records": ("records", "{:,.0f}"),
        "produce_per_s": ("produced/s", "{:,.0f}"),
        "consume_per_s": ("consumed/s", "{:,.0f}"),
        "first_p50_ms": ("first, p50 ms", "{:.2f}"),
        "first_p99_ms": ("p99 ms", "{:.2f}"),
        "rss_mb": ("RSS MB", "{:.1f}"),
        "disk_mb": ("disk MB", "{:,.1f}"),
    },
    "partitions": {
        "partitions": ("partitions", "{:,.0f}"),
        "produce_per_s": ("produced/s", "{:,.0f}"),
        "produced_rss_mb": ("RSS MB", "{:.1f}"),
        "produced_descriptors": ("descriptors", "{:,.0f}"),
        "produced_idle_percent": ("idle CPU %", "{:.1f}"),
        "start_ms": ("start ms", "{:,.0f}"),
        "started_rss_mb": ("RSS MB", "{:.1f}"),
        "started_descriptors": ("descriptors", "{:,.0f}"),
        "started_idle_percent": ("idle CPU %", "{:.1f}"),
    },
    "tails": {
        "tails": ("consumers", "{:,.0f}"),
        "produce_per_s": ("produced/s", "{:,.0f}"),
        "received_per_s": ("received/s", "{:,.0f}"),
        "p50_ms": ("request, p50 ms", "{:.2f}"),
        "p99_ms": ("p99 ms", "{:.2f}"),
        "rss_mb": ("RSS MB", "{:.1f}"),
        "peak_rss_mb": ("peak MB", "{:.1f}"),
    },
}
"""The figures of each part with their titles and formats; the first is what grows."""
WIDTH = 17


def main() -> None:
    options = _options()
    about = begin(options)
    held = say_durability(options.folder)
    measures = {"size": _sizes, "partitions": _partitions, "tails": _tails}
    parts = {}
    for part in options.part or measures:
        parts[part] = measures[part](options.folder, options.scale)
        _print_table(part, parts[part])
    document = {"machine": about, "durability": held, "scale": options.scale, "parts": parts}
    write_json(options.json or options.out / "growth.json", document)
    if can_draw():
        from bench.growth_chart import draw  # noqa: PLC0415  only here, because it may be missing

        draw(document, options.out / "growth.svg")


def _options() -> argparse.Namespace:
    parser = arguments("growth")
    parser.add_argument(
        "--part", action="append", choices=list(COLUMNS), help="measure only this part; may be repeated"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs"),
        metavar="DIR",
        help="write growth.json and growth.svg here [docs]",
    )
    return parser.parse_args()


def _print_table(part: str, rows: Sequence[Figures]) -> None:
    columns = COLUMNS[part]
    print("\n" + "".join(f"{title:>{WIDTH}}" for title, _ in columns.values()))
    for row in rows:
        print("".join(f"{form.format(row[name]):>{WIDTH}}" for name, (_, form) in columns.items()))
    sys.stdout.flush()


@contextmanager
def _new_broker(folder: Path) -> Iterator[tuple[Running, Path]]:
    """A broker on an empty data folder, with that folder."""
    with new_data_dir(folder) as data_dir, running(serve_command(data_dir)) as process:
        yield process, data_dir


def _requests(topic: str, partitions: int = 1) -> Iterator[pb.ProduceMessageRequest]:
    """Endless requests, round robin over the partitions."""
    payload = LARGE.payload()
    for number in itertools.count():
        yield batch_request(topic, payload, number % partitions)


async def _produce(stub: Any, requests: Iterator[pb.ProduceMessageRequest], count: int) -> Figures:
    """Send this number of requests."""
    began = time.perf_counter()
    answered: list[float] = []
    await flood(stub, itertools.islice(requests, count), in_flight=LARGE.in_flight, answered=answered)
    return {"produce_per_s": count * LARGE.records / (time.perf_counter() - began)} | latencies(answered)


# Size


def _sizes(folder: Path, scale: float) -> list[Figures]:
    with _new_broker(folder) as (process, data_dir):
        return asyncio.run(_grow(process, data_dir, scale))


async def _grow(process: Running, data_dir: Path, scale: float) -> list[Figures]:
    """Grow one log through all sizes; returns a row of figures for each."""
    requests = [max(round(size * scale) // LARGE.records, 1) for size in SIZES]
    rows = []
    async with client(process.address) as stub:
        async with new_topic(stub) as other:
            await _produce(stub, _requests(other), WARM_UP_REQUESTS)
        async with new_topic(stub) as topic:
            for earlier, now in itertools.pairwise([0, *sorted(set(requests))]):
                produced = await _reach(stub, topic, now - earlier)
                records = now * LARGE.records
                read = await _read_back(stub, topic, records)
                rows.append({"records": records, **produced, **read, **_room(process, data_dir)})
    return rows


async def _reach(stub: Any, topic: str, count: int) -> Figures:
    """Send this number of requests; returns the rate of the last stretch."""
    requests = _requests(topic)
    stretch = min(count, STRETCH_RECORDS // LARGE.records)
    if count > stretch:
        await _produce(stub, requests, count - stretch)
    return {"produce_per_s": (await _produce(stub, requests, stretch))["produce_per_s"]}


async def _read_back(stub: Any, topic: str, end: int) -> Figures:
    """Read from random offsets, the same ones in every run: long reads, then short ones."""
    choose = random.Random(end).randrange
    count = min(end // 2, READ_RECORDS_MAX)
    seconds = [
        await read_values(stub, topic, choose(end - count + 1), count, LARGE.value_bytes)
        for _ in range(READS)
    ]
    first = [await _first_batch(stub, topic, choose(end - LARGE.records + 1)) for _ in range(FIRST_BATCHES)]
    times = {f"first_{name}": value for name, value in latencies(first).items()}
    return {"consume_per_s": READS * count / sum(seconds), **times}


async def _first_batch(stub: Any, topic: str, offset: int) -> float:
    """The seconds from a consume call to its first response, which is all that the call asks for."""
    began = time.perf_counter()
    request = pb.ConsumeMessagesRequest(topic=topic, offset=offset, max_records=LARGE.records)
    call = stub.ConsumeMessages(request)
    response = checked(await call.read())
    took = time.perf_counter() - began
    if response.records[0].offset != offset:
        raise RuntimeError(f"the first record is {response.records[0].offset}, not {offset}")
    while await call.read() is not grpc.aio.EOF:
        pass
    return took


def _room(process: Running, data_dir: Path) -> Figures:
    size_bytes = sum(path.stat().st_size for path in data_dir.rglob("*") if path.is_file())
    return {"rss_mb": rss_bytes(process.pid) / 1e6, "disk_mb": size_bytes / 1e6}


# Partitions


def _partitions(folder: Path, scale: float) -> list[Figures]:
    return [asyncio.run(_over_partitions(folder, count, scale)) for count in PARTITIONS]


async def _over_partitions(folder: Path, count: int, scale: float) -> Figures:
    requests = max(round(PARTITION_RECORDS * scale) // LARGE.records, 10)
    idle_seconds = max(IDLE_SECONDS * scale, 1)
    with new_data_dir(folder) as data_dir:
        with running(serve_command(data_dir)) as process:
            produced = await _produce_over(process, count, requests)
            produced |= await _taken("produced", process, idle_seconds)
        if list(data_dir.rglob("*-wal")):
            raise RuntimeError("the broker did not stop cleanly: there is a write-ahead log left")
        with running(serve_command(data_dir)) as process:
            started = await _taken("started", process, idle_seconds)
            return {"partitions": count, **produced, "start_ms": process.start_seconds * 1e3, **started}


async def _produce_over(process: Running, count: int, requests: int) -> Figures:
    """Produce into a new topic; each of its partitions receives a request before the clock starts."""
    async with client(process.address) as stub:
        created = pb.CreateTopicRequest(name=TOPIC, num_partitions=count)
        checked(await stub.CreateTopic(created))
        await _produce(stub, _requests(TOPIC, count), max(count, WARM_UP_REQUESTS))
        return await _produce(stub, _requests(TOPIC, count), requests)


async def _taken(when: str, process: Running, idle_seconds: float) -> Figures:
    """What an idle broker uses."""
    rss_mb, opened = rss_bytes(process.pid) / 1e6, descriptors(process.pid)
    began, cpu_before = time.perf_counter(), cpu_seconds(process.pid)
    await asyncio.sleep(idle_seconds)  # CPU time is measured over this interval
    busy = (cpu_seconds(process.pid) - cpu_before) / (time.perf_counter() - began)
    return {f"{when}_rss_mb": rss_mb, f"{when}_descriptors": opened, f"{when}_idle_percent": busy * 100}


# Tails


def _tails(folder: Path, scale: float) -> list[Figures]:
    rows = []
    for count in TAILS:
        with _new_broker(folder) as (process, _):
            rows.append(asyncio.run(_tailed(process, count, max(TAIL_SECONDS * scale, 1))))
    return rows


async def _tailed(process: Running, count: int, seconds: float) -> Figures:
    """Produce for so many seconds to so many consumers, each of which has received something before."""
    async with (
        client(process.address) as stub,
        new_topic(stub) as topic,
        tailing(process.address, topic, count) as tails,
    ):
        await _produce(stub, _requests(topic), WARM_UP_REQUESTS)
        await tails.ready()
        before, began = await tails.look(), time.perf_counter()
        timed = itertools.takewhile(lambda _: time.perf_counter() < began + seconds, _requests(topic))
        answered: list[float] = []
        await flood(stub, timed, in_flight=LARGE.in_flight, answered=answered)
        took = time.perf_counter() - began
        rss, peak = rss_bytes(process.pid), peak_rss_bytes(process.pid)
        after = await tails.look()
    if faults := {seen.fault for seen in consumers(after) if seen.fault}:
        raise RuntimeError(f"consumers had faults: {', '.join(sorted(faults))}")
    return {
        "tails": count,
        "produce_per_s": len(answered) * LARGE.records / took,
        "received_per_s": received_per_s(before, after),
        **latencies(answered),
        "rss_mb": rss / 1e6,
        "peak_rss_mb": peak / 1e6,
    }


if __name__ == "__main__":
    main()
