"""Retention at work: what it costs producers, how large the folder gets, and what idle topics cost.

First two kinds of topics take turns, one kind with retention.bytes and one without, under full produce load
(100 B values, 1,000 a request, 8 requests unanswered) with a consumer that follows and must miss nothing.
Then many topics with retention.ms are filled and left alone, most of them with closed files: each has to be
empty in time. The exit code is 1 if a bound that is printed is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from bench.common import (
    Running,
    arguments,
    begin,
    latencies,
    new_data_dir,
    rate,
    running,
    say_durability,
    serve_command,
    write_json,
)
from bench.loads import LARGE
from bench.process import cpu_seconds
from bench.tails import consumers, tailing
from bench.takhin_client import batch_request, checked, client, flood
from takhin.v1 import takhin_pb2 as pb

RETENTION_BYTES = 100_000_000
FOLDER_BYTES_MAX = 130_000_000
RATE_SHARE_MIN, P99_TIMES_MAX = 0.85, 2.0
IDLE_RECORDS = 100
IDLE_CPU_MAX, LATE_SECONDS_MAX = 0.02, 5.0
CATCH_UP_SECONDS_MAX = 60
SAMPLE_SECONDS = 0.05


def main() -> None:
    options = _options()
    about = begin(options)
    held = say_durability(options.folder)
    with new_data_dir(options.folder) as data_dir, running(serve_command(data_dir)) as process:
        loaded = asyncio.run(_loaded(process, data_dir, options.repeat, options.seconds))
    with new_data_dir(options.folder) as data_dir, running(serve_command(data_dir)) as process:
        idle = asyncio.run(_idle(process, options.topics, options.age_seconds))
    if options.json:
        write_json(options.json, {"machine": about, "durability": held, "loaded": loaded, "idle": idle})
    if not (loaded["kept"] and idle["kept"]):
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = arguments("retention", repeat="pairs of runs", scale=False)
    parser.add_argument("--seconds", type=float, default=60, metavar="S", help="of each run under load [60]")
    parser.add_argument("--topics", type=int, default=200, metavar="N", help="idle topics [200]")
    parser.add_argument(
        "--age-seconds", type=float, default=60, metavar="S", help="retention.ms of those [60 s]"
    )
    return parser.parse_args()


# Under load


async def _loaded(process: Running, data_dir: Path, pairs: int, seconds: float) -> dict[str, Any]:
    runs: dict[str, list[dict[str, float]]] = {"retained": [], "kept": []}
    for number in range(pairs):
        for kind, configs in (("retained", {"retention.bytes": str(RETENTION_BYTES)}), ("kept", {})):
            figures = await _run(process, data_dir, f"{kind}-{number}", configs, seconds)
            runs[kind].append(figures)
            print(
                f"{kind:9} {figures['records_per_s']:9,.0f} records/s  p50 {figures['p50_ms']:.2f} ms  "
                f"p99 {figures['p99_ms']:.2f} ms  folder at most {figures['folder_mb_max']:,.0f} MB",
                flush=True,
            )
    of = {kind: {name: median(run[name] for run in some) for name in some[0]} for kind, some in runs.items()}
    share = of["retained"]["records_per_s"] / of["kept"]["records_per_s"]
    times = of["retained"]["p99_ms"] / of["kept"]["p99_ms"]
    folder = max(run["folder_mb_max"] for run in runs["retained"])
    print(
        f"rate with retention {share:.2f} of that without (at least {RATE_SHARE_MIN}), p99 {times:.2f} times "
        f"(at most {P99_TIMES_MAX}), folder at most {folder:,.0f} MB (under {FOLDER_BYTES_MAX / 1e6:,.0f})"
    )
    within = share >= RATE_SHARE_MIN and times <= P99_TIMES_MAX and folder * 1e6 < FOLDER_BYTES_MAX
    return {"runs": runs, "rate_share": share, "p99_times": times, "folder_mb_max": folder, "kept": within}


async def _run(
    process: Running, data_dir: Path, topic: str, configs: dict[str, str], seconds: float
) -> dict[str, float]:
    folder = data_dir / "topics" / topic
    answered: list[float] = []
    async with client(process.address) as stub:
        checked(await stub.CreateTopic(pb.CreateTopicRequest(name=topic, configs=configs)))
        async with tailing(process.address, topic, 1, stalled=0) as tails:
            await flood(stub, _requests(topic, 1), in_flight=LARGE.in_flight, answered=[])
            await tails.ready()
            sampling = asyncio.create_task(_largest(lambda: _size_bytes(folder)))
            began = time.perf_counter()
            await flood(stub, _requests(topic, seconds), in_flight=LARGE.in_flight, answered=answered)
            took = time.perf_counter() - began
            offsets = pb.GetPartitionOffsetsRequest(topic=topic)
            end = checked(await stub.GetPartitionOffsets(offsets)).end_offset
            seen = consumers(await tails.until(end, seconds=CATCH_UP_SECONDS_MAX))
            sampling.cancel()
            largest = await sampling
        if seen[0].fault or seen[0].position != end:
            raise RuntimeError(f"the consumer of {topic} has missed records: {seen[0]}")
        checked(await stub.DeleteTopic(pb.DeleteTopicRequest(name=topic)))
    requests = len(answered)
    figures = rate(took, requests * LARGE.records, requests * LARGE.payload().size_bytes)
    return figures | latencies(answered) | {"folder_mb_max": largest / 1e6}


def _requests(topic: str, seconds: float) -> Iterator[pb.ProduceMessageRequest]:
    payload = LARGE.payload()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        yield batch_request(topic, payload)


async def _largest(size_bytes: Callable[[], int]) -> int:
    """The largest of the sizes that were seen until the task was cancelled."""
    largest = 0
    with suppress(asyncio.CancelledError):
        while True:
            largest = max(largest, size_bytes())
            await asyncio.sleep(SAMPLE_SECONDS)
    return largest


def _size_bytes(folder: Path) -> int:
    """What the files of a folder take on the disk."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a -wal may go meanwhile
            total += path.stat().st_blocks * 512
    return total


# Idle


async def _idle(process: Running, topics: int, age_seconds: float) -> dict[str, Any]:
    names = [f"idle-{number}" for number in range(topics)]
    configs = {"retention.ms": str(int(age_seconds * 1_000))}
    payload = LARGE.payload()
    async with client(process.address) as stub:
        filled = {}
        for name in names:
            checked(await stub.CreateTopic(pb.CreateTopicRequest(name=name, configs=configs)))
            request = batch_request(name, payload)
            del request.records[IDLE_RECORDS:]
            filled[name] = time.time()
            checked(await stub.ProduceMessage(request))
        await _until(max(filled.values()) + 2)
        before, began = cpu_seconds(process.pid), time.time()
        await _until(min(filled.values()) + age_seconds - 1)
        idle_share = (cpu_seconds(process.pid) - before) / (time.time() - began)
        before, began = cpu_seconds(process.pid), time.time()
        late = await _lateness(stub, filled, age_seconds)
        busy_share = (cpu_seconds(process.pid) - before) / (time.time() - began)
    allowed = max(LATE_SECONDS_MAX, 0.1 * age_seconds)
    print(
        f"{topics} topics: empty {min(late):.1f} to {max(late):.1f} s late (at most {allowed:g}), "
        f"CPU {100 * idle_share:.2f} % of a core while nothing is due (at most {100 * IDLE_CPU_MAX:g}), "
        f"{100 * busy_share:.1f} % while all of it is, with the questions of this program"
    )
    within = idle_share <= IDLE_CPU_MAX and min(late) >= 0 and max(late) <= allowed
    return {"late_s": late, "idle_cpu": idle_share, "busy_cpu": busy_share, "kept": within}


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.time()))


async def _lateness(stub: Any, filled: dict[str, float], age_seconds: float) -> list[float]:
    """How long after its time each topic was found empty, in seconds."""
    late = {}
    ask: Callable[..., Awaitable[Any]] = stub.DescribeTopics
    while left := [name for name in filled if name not in late]:
        found = await ask(pb.DescribeTopicsRequest(topics=left))
        for topic in found.topics:
            if topic.partitions[0].beginning_offset == IDLE_RECORDS:
                late[topic.name] = time.time() - filled[topic.name] - age_seconds
        await asyncio.sleep(0.25)
    return list(late.values())


if __name__ == "__main__":
    main()
