"""Full-speed produce for minutes with tailing consumers, some of which stop reading and never resume.

The load is 100 B values, 1,000 a request, 8 requests unanswered, one partition, default settings. The program
watches the broker's memory, which must not grow with the log or with consumers that are behind, and what each
consumer receives. The exit code is 1 if a consumer that reads has missed a record, or received one twice.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bench.common import (
    Running,
    arguments,
    begin,
    latencies,
    new_data_dir,
    percentile,
    rate,
    running,
    say_durability,
    serve_command,
    write_json,
)
from bench.loads import LARGE
from bench.process import rss_bytes
from bench.tails import Look, Seen, Tails, consumers, received_per_s, tailing
from bench.takhin_client import batch_request, checked, client, flood, new_topic
from takhin.settings import RpcSettings
from takhin.v1 import takhin_pb2 as pb

CONSUMERS = 50
STALLED = 5
WARM_UP_REQUESTS = 20
LINE_SECONDS = 10
CATCH_UP_SECONDS_MAX = 60
SECONDS_MAX = RpcSettings().connection_age_ms // 1_000
"""The broker asks streams that grow older to reconnect; the consumers here never do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of the broker at one moment of the run. records: acknowledged so far."""

    seconds: float
    rss_mb: float
    records: int


def main() -> None:
    options = _options()
    about = begin(options)
    held = say_durability(options.folder)
    print(
        f"{options.seconds:g} s, {CONSUMERS} consumers, of which {STALLED} stop reading early on", flush=True
    )
    with new_data_dir(options.folder) as data_dir, running(serve_command(data_dir)) as process:
        document = asyncio.run(_endure(process, options.seconds))
    _print_result(document)
    if options.json:
        write_json(options.json, {"machine": about, "durability": held, **document})
    if any(seen["fault"] for seen in document["consumers"]):
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = arguments("endurance", scale=False)
    parser.add_argument(
        "--seconds",
        type=float,
        default=300,
        metavar="S",
        help=f"how long to produce, up to {SECONDS_MAX} [300]",
    )
    options = parser.parse_args()
    if not 1 <= options.seconds <= SECONDS_MAX:
        parser.error(f"--seconds must be from 1 to {SECONDS_MAX}, after which streams are asked to reconnect")
    return options


async def _endure(process: Running, seconds: float) -> dict[str, Any]:
    async with (
        client(process.address) as stub,
        new_topic(stub) as topic,
        tailing(process.address, topic, CONSUMERS, stalled=STALLED) as tails,
    ):
        warm_up = islice(_requests(topic, seconds), WARM_UP_REQUESTS)
        await flood(stub, warm_up, in_flight=LARGE.in_flight, answered=[])
        await tails.ready()
        return await _watched(process, stub, topic, tails, seconds)


async def _watched(process: Running, stub: Any, topic: str, tails: Tails, seconds: float) -> dict[str, Any]:
    """Produce while sampling the broker; then let the consumers catch up."""
    answered: list[float] = []
    samples: list[Sample] = []
    sampling = asyncio.create_task(_sample(process.pid, answered, samples))
    before, began = await tails.look(), time.perf_counter()
    await flood(stub, _requests(topic, seconds), in_flight=LARGE.in_flight, answered=answered)
    took, after = time.perf_counter() - began, await tails.look()
    sampling.cancel()
    with suppress(asyncio.CancelledError):
        await sampling
    end = await _end_offset(stub, topic, expected=(WARM_UP_REQUESTS + len(answered)) * LARGE.records)
    at_last = await tails.until(end, seconds=CATCH_UP_SECONDS_MAX)
    return {
        "seconds": took,
        "end_offset": end,
        "produce": _produced(answered, took),
        "received_per_s": received_per_s(before, after),
        "rss": _memory(samples),
        "behind": {"when_produced": _behind(after, end), "at_last": _behind(at_last, end)},
        "samples": [dataclasses.asdict(sample) for sample in samples],
        "consumers": [dataclasses.asdict(seen) for seen in consumers(at_last)],
    }


def _requests(topic: str, seconds: float) -> Iterator[pb.ProduceMessageRequest]:
    """Yield requests for so many seconds, counted from the first one."""
    payload = LARGE.payload()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        yield batch_request(topic, payload)


async def _sample(pid: int, answered: Sequence[float], samples: list[Sample]) -> None:
    """Take a sample once a second, by the clock."""
    began = time.perf_counter()
    while True:
        now = time.perf_counter() - began
        samples.append(Sample(now, rss_bytes(pid) / 1e6, len(answered) * LARGE.records))
        if len(samples) > LINE_SECONDS and len(samples) % LINE_SECONDS == 1:
            _print_sample(samples[-1], samples[-1 - LINE_SECONDS])
        await asyncio.sleep(began + len(samples) - time.perf_counter())


def _print_sample(now: Sample, earlier: Sample) -> None:
    records_per_s = (now.records - earlier.records) / (now.seconds - earlier.seconds)
    print(f"{now.seconds:6.0f} s  {records_per_s:11,.0f} records/s  RSS {now.rss_mb:7.1f} MB", flush=True)


async def _end_offset(stub: Any, topic: str, *, expected: int) -> int:
    """The end of the log, which must be what was acknowledged."""
    response = checked(await stub.GetPartitionOffsets(pb.GetPartitionOffsetsRequest(topic=topic)))
    if response.end_offset != expected:
        raise RuntimeError(f"{expected} records are acknowledged, but the log ends at {response.end_offset}")
    return int(response.end_offset)


def _produced(answered: Sequence[float], took: float) -> dict[str, float]:
    requests = len(answered)
    figures = rate(took, requests * LARGE.records, requests * LARGE.payload().size_bytes)
    return figures | latencies(answered) | {"p999_ms": percentile(sorted(answered), 0.999) * 1e3}


def _memory(samples: Sequence[Sample]) -> dict[str, float]:
    """The broker's RSS at several points of the run, and its maximum, in MB."""
    sizes = [sample.rss_mb for sample in samples]
    last = len(sizes) - 1
    parts = {f"at_{percent}_percent": sizes[round(last * percent / 100)] for percent in (10, 50, 100)}
    return parts | {"max": max(sizes)}


def _behind(looks: Sequence[Look], end: int) -> int:
    """How many records the slowest of the reading consumers has yet to receive."""
    return end - min(seen.position for seen in consumers(looks) if not seen.stalls)


def _print_result(document: dict[str, Any]) -> None:
    produce, rss, behind = document["produce"], document["rss"], document["behind"]
    print(
        f"\nproduced    {produce['records_per_s']:,.0f} records/s, {produce['mb_per_s']:,.1f} MB/s, "
        f"{document['end_offset']:,} records\n"
        f"requests    p50 {produce['p50_ms']:.2f} ms, p99 {produce['p99_ms']:.2f} ms, "
        f"p99.9 {produce['p999_ms']:.2f} ms\n"
        f"received    {document['received_per_s']:,.0f} records/s by all consumers together\n"
        f"broker RSS  {rss['at_10_percent']:.1f} MB at 10 % of the time, {rss['at_50_percent']:.1f} at 50 %, "
        f"{rss['at_100_percent']:.1f} at the end, {rss['max']:.1f} at most\n"
        f"behind      the slowest reader by {behind['when_produced']:,} records when all was produced, "
        f"by {behind['at_last']:,} at last"
    )
    _print_consumers([Seen(**seen) for seen in document["consumers"]], document["end_offset"])


def _print_consumers(seen: Sequence[Seen], end: int) -> None:
    readers = [one for one in seen if not one.stalls]
    stalled = [one for one in seen if one.stalls]
    faultless = [one for one in readers if not one.fault]
    at_end = sum(one.position == end for one in faultless)
    print(
        f"readers     {len(faultless)} of {len(readers)} saw every offset once and in order: "
        f"{at_end} up to the end, {len(faultless) - at_end} up to where they are\n"
        f"stalled     {sum(one.open for one in stalled)} of {len(stalled)} streams are still open, after at "
        f"most {max(one.records for one in stalled):,} records"
    )
    for fault in sorted({one.fault for one in seen if one.fault}):
        print(f"FAULT       {fault}")


if __name__ == "__main__":
    main()
