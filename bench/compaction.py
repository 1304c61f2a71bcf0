"""A compaction beside producers: how long it takes beside one scan, what it costs them, and what it leaves.

    python -m bench.compaction --records 1000000 --keys 10000 [--folder DIR]

The engine runs in this process. Producers send batches of 100 records, one after the other, first alone and
then beside the pass.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import statistics
import tempfile
from pathlib import Path
from time import perf_counter, time

from takhin.clock import system_clock
from takhin.model import Batch, CleanupPolicy, TopicConfig, TopicSpec
from takhin.settings import StorageSettings
from takhin.storage.contract import PartitionLog
from takhin.storage.sqlite.engine import SqliteEngine

VALUE = b"v" * 100
BATCH, FILL_BATCH = 100, 4_000
ALONE_SECONDS = 5.0
CONFIG = TopicConfig(1 << 20, cleanup_policy=(CleanupPolicy.COMPACT,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--producers", type=int, default=4)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        asyncio.run(measure(Path(folder, "data"), options.records, options.keys, options.producers))


def batch(keys: list[bytes]) -> Batch:
    now = int(time() * 1_000)
    return Batch(keys, [VALUE] * len(keys), [now] * len(keys), {}, 120 * len(keys))


async def measure(data: Path, records: int, keys: int, producers: int) -> None:
    engine = SqliteEngine(data, StorageSettings(), clock=system_clock)
    await engine.open()
    log = (await engine.create_topic(TopicSpec("t", 1, CONFIG))).partitions[0]
    chance = random.Random(1)
    for _ in range(0, records, FILL_BATCH):
        await log.append(batch([b"key-%08d" % chance.randrange(keys) for _ in range(FILL_BATCH)]))
    scan_s, _ = await scan(log)
    alone = await beside(log, producers, asyncio.sleep(ALONE_SECONDS))
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = perf_counter()
    during = await beside(log, producers, log.compact(CONFIG, system_clock()))
    busy_s = perf_counter() - began
    rss_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss) / 1_024
    for _ in range(0, records, FILL_BATCH):  # dirty again, for a pass with the machine to itself
        await log.append(batch([b"key-%08d" % chance.randrange(keys) for _ in range(FILL_BATCH)]))
    before = log.record_count
    again_s, _ = await scan(log)
    began = perf_counter()
    removed = await log.compact(CONFIG, system_clock())
    quiet_s = perf_counter() - began
    _, left = await scan(log)
    print(f"scan of {records:,} records by our reader    {scan_s:8.2f} s")
    print(f"pass beside {producers} producers               {busy_s:8.2f} s  ({busy_s / scan_s:.2f} scans)")
    print(f"pass over {before:,} records, alone      {quiet_s:8.2f} s  ({quiet_s / again_s:.2f} scans)")
    print(f"RSS of the first pass                   {rss_mb:8.0f} MB more")
    for name, times in (("alone", alone), ("beside the pass", during)):
        cuts = statistics.quantiles(times, n=100)
        print(
            f"producers {name:16} p50 {cuts[49] * 1e3:7.2f} ms, p99 {cuts[98] * 1e3:7.2f} ms, "
            f"longest {max(times) * 1e3:7.1f} ms, {len(times):,} batches"
        )
    print(f"left: {left:,} records, removed {removed:,} by the second pass")
    await engine.close()


async def scan(log: PartitionLog) -> tuple[float, int]:
    """(how long a reader takes for the whole log, how many records it finds)."""
    began, offset, found = perf_counter(), log.start_offset, 0
    while offset < log.end_offset:
        page = await log.read(offset, max_bytes=1 << 20, max_records=2_000)
        found, offset = found + len(page.rows), page.next_offset
    return perf_counter() - began, found


async def beside(log: PartitionLog, producers: int, work) -> list[float]:
    """How long each append took while `work` went on, s."""
    times: list[float] = []
    ended = asyncio.Event()

    async def produce(number: int) -> None:
        chance = random.Random(number)
        while not ended.is_set():
            sent = batch([b"new-%06d" % chance.randrange(100) for _ in range(BATCH)])
            began = perf_counter()
            await log.append(sent)
            times.append(perf_counter() - began)
            await asyncio.sleep(0.002)

    tasks = [asyncio.create_task(produce(number)) for number in range(producers)]
    await work
    ended.set()
    await asyncio.gather(*tasks)
    return times


if __name__ == "__main__":
    main()
