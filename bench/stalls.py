"""How long a commit keeps producers waiting while checkpoints run, at full load, in process.

Two batches are always under way in one partition, so that the next one is waiting when the last is answered:
the time from answer to answer is the time of a commit, checkpoints included. Beside it runs bare apsw, which
does its checkpoints inside the commits, with the same batches and as many pages between two checkpoints.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from bench.common import Figures, arguments, begin, medians, payload, percentile, say_durability, write_json
from bench.loads import LARGE
from bench.peer_apsw import appender, database
from takhin.clock import system_clock
from takhin.model import Batch, TopicConfig, TopicSpec
from takhin.settings import StorageSettings
from takhin.sizes import size_bytes
from takhin.storage.sqlite.engine import SqliteEngine

COMMITS = 10_000
SHOWN = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}


def main() -> None:
    parser = arguments("stalls", repeat="runs")
    options = parser.parse_args()
    about = begin(options)
    held = say_durability(options.folder)
    commits = max(round(COMMITS * options.scale), 100)
    kinds: dict[str, Callable[[Path, int], list[float]]] = {"Takhin's storage": takhin, "bare apsw": bare}
    runs: dict[str, list[Figures]] = {title: [] for title in kinds}
    for _ in range(options.repeat):
        for title, run in kinds.items():
            with tempfile.TemporaryDirectory(prefix="takhin-", dir=options.folder) as folder:
                runs[title].append(_figures(run(Path(folder), commits)))
    print(f"\nmedians of {options.repeat} runs of {commits:,} commits of {LARGE.records:,} records")
    print(f"{'':20}" + "".join(f"{name:>12}" for name in SHOWN))
    for title, figures in runs.items():
        print(f"{title:20}" + "".join(f"{value:12.2f}" for value in medians(figures).values()))
    if options.json:
        shown = {title: {"median": medians(figures), "runs": figures} for title, figures in runs.items()}
        write_json(options.json, {"machine": about, "durability": held, "stalls": shown})


def takhin(folder: Path, commits: int) -> list[float]:
    """The seconds from each answer to the next."""
    return asyncio.run(_takhin(folder, commits))


async def _takhin(folder: Path, commits: int) -> list[float]:
    settings = StorageSettings(commit_group_records_max=LARGE.records)  # each batch is a commit of its own
    engine = SqliteEngine(folder, settings, clock=system_clock)
    await engine.open()
    try:
        log = (await engine.create_topic(TopicSpec("stalls", 1, TopicConfig(1 << 20)))).partitions[0]
        batch = _batch()
        answered = []
        waiting = log.append(batch)
        for _ in range(commits):
            following = log.append(batch)
            await waiting
            answered.append(time.perf_counter())
            waiting = following
        await waiting
    finally:
        await engine.close()
    return _gaps(answered)


def _batch() -> Batch:
    of = payload(LARGE.records, LARGE.value_bytes)
    stamps = [system_clock()] * LARGE.records
    return Batch(of.keys, of.values, stamps, {}, size_bytes(of.keys, of.values, ()))


def bare(folder: Path, commits: int) -> list[float]:
    """The same figures for bare apsw."""
    with database(folder) as connection:
        append = appender(connection, LARGE)
        answered = []
        for _ in range(commits):
            append()
            answered.append(time.perf_counter())
    return _gaps(answered)


def _gaps(answered: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(answered)]


def _figures(seconds: Sequence[float]) -> Figures:
    ordered = sorted(seconds)
    return {name: percentile(ordered, share) * 1e3 for name, share in SHOWN.items()}


if __name__ == "__main__":
    main()
