"""Consumer groups at size: how fast they join, and what they cost, also producers.

First many groups of one member each and one group of many members over many partitions join a broker, over
the bare interface; then records are read through a group and by `assign` in turns. The exit code is 1 if a
bound that is printed is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from bench.common import (
    Running,
    arguments,
    begin,
    latencies,
    new_data_dir,
    running,
    say_durability,
    serve_command,
    write_json,
)
from bench.group_reading import read_through_groups
from bench.loads import SMALL
from bench.process import cpu_seconds, rss_bytes
from bench.takhin_client import batch_request, checked, client
from takhin.v1 import takhin_pb2 as pb

JOIN_SECONDS_MAX = 10.0
RSS_BYTES_MAX = 150 << 20
IDLE_CPU_MAX = 0.03
P99_TIMES_MAX = 1.5
SESSION_MS = 45_000


def main() -> None:
    options = _options()
    about = begin(options)
    say_durability(options.folder)
    results = {}
    shapes = {
        f"{options.groups} groups of one member": (options.groups, 1, 16),
        f"a group of {options.members} members over {options.partitions} partitions": (
            1,
            options.members,
            options.partitions,
        ),
    }
    for name, (groups, members, partitions) in shapes.items():
        with new_data_dir(options.folder) as data_dir, running(serve_command(data_dir)) as process:
            print(name)
            results[name] = asyncio.run(_at_size(process, groups, members, partitions, options.idle_seconds))
    results["rate"] = read_through_groups(options.folder, options.records, options.repeat)
    if options.json:
        write_json(options.json, {"machine": about, "results": results})
    if not all(result["kept"] for result in results.values()):
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = arguments("groups", repeat="pairs of runs that read", scale=False)
    parser.add_argument("--groups", type=int, default=1_000, metavar="N", help="groups of one member [1,000]")
    parser.add_argument("--members", type=int, default=300, metavar="N", help="of the large group [300]")
    parser.add_argument("--partitions", type=int, default=1_000, metavar="N", help="that it reads [1,000]")
    parser.add_argument(
        "--idle-seconds", type=float, default=20, metavar="S", help="looked at when idle [20]"
    )
    parser.add_argument(
        "--records", type=int, default=2_000_000, metavar="N", help="that are read [2 million]"
    )
    return parser.parse_args()


# Groups at size


class Members:
    """Members over the bare interface, which heartbeat and say at once what they own."""

    def __init__(self, members: int, expected: int) -> None:
        """expected: how many partitions all of them are to own together."""
        self._members = members
        self._expected = expected
        self.owned: dict[int, int] = {}
        """How many partitions each member owns."""
        self.all_owned = asyncio.Event()

    async def attend(self, stub: Any, number: int, group_id: str) -> None:
        """Be a member until cancelled."""
        call = stub.JoinConsumerGroup()
        join = pb.Join(group_id=group_id, topics=["t"], session_timeout_ms=SESSION_MS)
        await call.write(pb.MemberRequest(join=join))
        joined = (await call.read()).joined
        epoch = joined.member_epoch

        async def beat() -> None:
            while True:
                await asyncio.sleep(joined.heartbeat_interval_ms / 1_000)
                await call.write(pb.MemberRequest(heartbeat=pb.Heartbeat(member_epoch=epoch)))

        beating = asyncio.create_task(beat())
        try:
            while said := await call.read():
                if not said.HasField("assignment"):
                    continue
                epoch, owned = said.assignment.member_epoch, said.assignment.partitions
                self._note(number, len(owned))
                heartbeat = pb.Heartbeat(member_epoch=epoch, owned=pb.OwnedPartitions(partitions=owned))
                await call.write(pb.MemberRequest(heartbeat=heartbeat))
        finally:
            beating.cancel()
            call.cancel()

    def _note(self, number: int, owned: int) -> None:
        self.owned[number] = owned
        if len(self.owned) == self._members and sum(self.owned.values()) == self._expected:
            self.all_owned.set()


@asynccontextmanager
async def _joined(address: str, groups: int, members: int, partitions: int) -> AsyncIterator[float]:
    """Members of all groups, joined at once; yields the seconds until each partition has its owners."""
    each = groups * members
    state = Members(each, groups * partitions)
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(client(address)) for _ in range(1 + each // 90)]
        began = time.perf_counter()
        tasks = [
            asyncio.create_task(state.attend(stubs[number % len(stubs)], number, f"g{number % groups}"))
            for number in range(each)
        ]
        waiting = asyncio.create_task(state.all_owned.wait())
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED, timeout=120)
        if not state.all_owned.is_set():
            raise RuntimeError(f"a member has left, or not all partitions are owned: {state.owned}")
        yield time.perf_counter() - began
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _at_size(
    process: Running, groups: int, members: int, partitions: int, idle_seconds: float
) -> dict[str, Any]:
    async with client(process.address) as stub:
        checked(await stub.CreateTopic(pb.CreateTopicRequest(name="load")))
        checked(await stub.CreateTopic(pb.CreateTopicRequest(name="t", num_partitions=partitions)))
        alone = await _p99_ms(stub, [])
        before = rss_bytes(process.pid)
        async with _joined(process.address, groups, members, partitions) as joined_s:
            rss = rss_bytes(process.pid) - before
            cpu, began = cpu_seconds(process.pid), time.perf_counter()
            await asyncio.sleep(idle_seconds)
            idle = (cpu_seconds(process.pid) - cpu) / (time.perf_counter() - began)
            beside = await _p99_ms(stub, [])
    times = beside / alone
    print(
        f"  joined in {joined_s:.1f} s (at most {JOIN_SECONDS_MAX:g}), RSS +{rss >> 20} MiB (at most "
        f"{RSS_BYTES_MAX >> 20}), idle CPU {100 * idle:.1f} % of a core (at most {100 * IDLE_CPU_MAX:g}), "
        f"producers' p99 {beside:.2f} ms beside them, {times:.2f} times (at most {P99_TIMES_MAX})"
    )
    kept = (
        joined_s <= JOIN_SECONDS_MAX
        and rss <= RSS_BYTES_MAX
        and idle <= IDLE_CPU_MAX
        and times <= P99_TIMES_MAX
    )
    return {"join_s": joined_s, "rss_bytes": rss, "idle_cpu": idle, "p99_times": times, "kept": kept}


async def _p99_ms(stub: Any, answered: list[float], seconds: float = 20.0, per_second: int = 400) -> float:
    """The 99th percentile of produce calls at a fixed rate, about half of what the broker can take.

    What this process holds for its members is no part of it: Python looks for no garbage among that.
    """
    gc.collect()
    gc.freeze()
    request = batch_request("load", SMALL.payload())
    due = time.perf_counter()
    calls = set()

    async def one(since: float) -> None:
        checked(await stub.ProduceMessage(request))
        answered.append(time.perf_counter() - since)

    for _ in range(int(seconds * per_second)):
        due += 1 / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        calls.add(asyncio.create_task(one(due)))
    await asyncio.gather(*calls)
    return float(latencies(answered)["p99_ms"])


if __name__ == "__main__":
    main()
