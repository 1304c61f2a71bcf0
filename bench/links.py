"""What compression brings: JSON lines through the client, plain and as zstd, on loopback and on a slow link.

The slow link is the loopback of a network namespace of its own, held to 100 Mbit/s by the kernel's token
bucket (tc-tbf(8)), which takes root. Both directions share it, and one is nearly idle. Plain and compressed
runs take turns; each figure is the median of the rounds.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Literal

from bench.common import arguments, begin, broker
from takhin.client import END, START, Admin, Consumer, Producer, Span

RECORDS = 100_000
MBIT = 100
INSIDE = "TAKHIN_BENCH_MBIT"
"""Set, to the speed of the link, where the program runs in a namespace of its own."""
HOWS: tuple[Literal["zstd"] | None, ...] = (None, "zstd")


def main() -> None:
    options = arguments("links", repeat="rounds", times=5).parse_args()
    speed = os.environ.get(INSIDE)
    if speed is None:
        begin(options)
    else:
        _slow_down(int(speed))
    values = lines(int(RECORDS * options.scale))
    link = "loopback" if speed is None else f"{speed} Mbit/s"
    asyncio.run(_measured(options.folder, values, options.repeat, link))
    if speed is None and os.geteuid() == 0:
        again = ["unshare", "--net", sys.executable, "-m", "bench.links", *sys.argv[1:]]
        subprocess.run(again, check=True, env={**os.environ, INSIDE: str(MBIT)})


def lines(count: int) -> list[bytes]:
    """Lines of JSON of some 145 bytes, as a program might log them."""
    source = random.Random(1)
    names = ["order placed", "order paid", "order shipped", "basket changed", "customer came back"]
    return [
        json.dumps(
            {
                "time": f"2026-11-{source.randint(1, 30):02}T12:{number % 60:02}:07.123Z",
                "event": source.choice(names),
                "customer_id": source.randint(1, 10**6),
                "basket": f"{source.getrandbits(64):016x}",
                "cents": source.randint(1, 10**5),
                "ok": source.random() < 0.98,
            }
        ).encode()
        for number in range(count)
    ]


def _slow_down(mbit: int) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    shape = f"tc qdisc add dev lo root tbf rate {mbit}mbit burst 256kb latency 200ms"
    subprocess.run(shape.split(), check=True)


async def _measured(folder: Path, values: list[bytes], rounds: int, link: str) -> None:
    found: dict[object, list[tuple[float, float]]] = {how: [] for how in HOWS}
    with broker(folder) as address:
        for number in range(rounds):
            for how in HOWS if number % 2 else reversed(HOWS):
                found[how].append(await _times(address, values, how))
    size = sum(map(len, values))
    for how, times in found.items():
        for what, seconds in zip(("produce", "consume"), map(median, zip(*times, strict=True)), strict=True):
            print(
                f"{link:12} {what:8} {how or 'plain':6} {len(values) / seconds:12,.0f} records/s "
                f"{size / seconds / 1e6:8.1f} MB/s",
                flush=True,
            )


async def _times(address: str, values: list[bytes], how: Literal["zstd"] | None) -> tuple[float, float]:
    """Seconds to produce the values and to read them."""
    topic = f"links-{time.monotonic_ns()}"
    async with Admin(address) as admin:
        await admin.create_topic(topic)
        began = time.perf_counter()
        async with Producer(address, compression=how) as producer:
            for value in values:
                await producer.send(topic, value)
        produced = time.perf_counter() - began
        began = time.perf_counter()
        async with Consumer(address, compression=how) as consumer:
            await consumer.assign_topics(topic, start=Span(START, END))
            count = 0
            async for _ in consumer:
                count += 1
        assert count == len(values)
        await admin.delete_topic(topic)
        return produced, time.perf_counter() - began


if __name__ == "__main__":
    main()
