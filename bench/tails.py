"""Consumers that tail one partition, many in each of a few processes, so that they do not slow the producer.

Each begins at the start of the log, on a connection of its own. Records are parsed, and the first and last
offset and the number of records of each response are checked, which reveals any gap or repeat.

Run as a program, it is one such process. It answers each line "OFFSET SECONDS" of its stdin with one line of
JSON, as soon as every consumer that still reads has reached OFFSET or that many seconds have passed. It ends
when its stdin ends.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc

from bench.common import STOP_SECONDS_MAX
from bench.takhin_client import client
from takhin.v1 import takhin_pb2 as pb

PROCESSES = 2
STALL_AFTER = 3
"""After this many responses a stalling consumer stops reading; its stream stays open."""
READY_SECONDS_MAX = 30
LINE_BYTES_MAX = 1 << 20


# The process that asks


@dataclass(frozen=True, slots=True)
class Seen:
    """What a consumer has received. position: the offset it expects next.

    fault: the first gap or repeat, or what ended its stream; otherwise empty.
    """

    position: int
    records: int
    stalls: bool
    open: bool
    fault: str


@dataclass(frozen=True, slots=True)
class Look:
    """The consumers of one process at one moment. seconds: the machine's monotonic clock."""

    at: float
    consumers: Sequence[Seen]

    @property
    def records(self) -> int:
        return sum(seen.records for seen in self.consumers)


class Tails:
    """All consumers of all processes."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    async def look(self) -> list[Look]:
        return await self.until(0, seconds=0)

    async def ready(self) -> None:
        """Wait until every consumer has received the first record, which somebody else has to produce."""
        looks = await self.until(1, seconds=READY_SECONDS_MAX)
        if not all(seen.position for seen in consumers(looks)):
            raise RuntimeError(f"after {READY_SECONDS_MAX} s there are consumers that have received nothing")

    async def until(self, offset: int, *, seconds: float) -> list[Look]:
        """Wait until every consumer that still reads has reached `offset`, or that time has passed."""
        return await asyncio.gather(*[_ask(process, f"{offset} {seconds}\n") for process in self._processes])


def consumers(looks: Sequence[Look]) -> list[Seen]:
    return [seen for look in looks for seen in look.consumers]


def received_per_s(before: Sequence[Look], after: Sequence[Look]) -> float:
    """How many records all consumers together received per second between two looks."""
    return sum(
        (then.records - first.records) / (then.at - first.at)
        for first, then in zip(before, after, strict=True)
    )


@asynccontextmanager
async def tailing(address: str, topic: str, count: int, *, stalled: int = 0) -> AsyncIterator[Tails]:
    """Consumers of the topic's partition 0. stalled: how many of them stop reading early on."""
    async with AsyncExitStack() as stack:
        processes = []
        for number in range(min(PROCESSES, count)):
            shares = [str((of + number) // min(PROCESSES, count)) for of in (count, stalled)]
            processes.append(await stack.enter_async_context(_process(address, topic, *shares)))
        yield Tails(processes)


@asynccontextmanager
async def _process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipes: Any = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.tails", *arguments, limit=LINE_BYTES_MAX, **pipes
    )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
        except TimeoutError:
            process.kill()


async def _ask(process: asyncio.subprocess.Process, line: str) -> Look:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line.encode())
    answer = await process.stdout.readline()
    if not answer:
        raise RuntimeError("a process of consumers has ended")
    look = json.loads(answer)
    return Look(look["at"], [Seen(**seen) for seen in look["consumers"]])


# A process of consumers


class Consumer:
    """One consume call from the start of the log, and what it has received."""

    def __init__(self, call: Any, *, stalls: bool) -> None:
        self.position = 0
        self._records = 0
        self._responses = 0
        self._fault = ""
        self._call = call
        self._stalls = stalls

    @property
    def reads(self) -> bool:
        """True if the consumer will go on reading."""
        return not self._fault and not (self._stalls and self._responses >= STALL_AFTER)

    async def read(self, moved: asyncio.Event) -> None:
        """Read on unless the consumer has stalled. moved: set whenever the position has changed."""
        while self.reads:
            try:
                response = await self._call.read()
            except grpc.aio.AioRpcError as error:
                self._fault = f"{error.code().name}: {error.details()}"
            else:
                self._take(response)
            moved.set()

    def _take(self, response: Any) -> None:
        if response is grpc.aio.EOF:
            self._fault = "the stream ended"
        elif response.records:  # an empty response only says that the idle stream is alive
            first, last = response.records[0].offset, response.records[-1].offset
            count = len(response.records)
            if (first, last) != (self.position, self.position + count - 1):
                self._fault = f"{count} records from {first} to {last} came where {self.position} was next"
            self.position = last + 1
            self._records += count
            self._responses += 1

    def seen(self) -> Seen:
        return Seen(self.position, self._records, self._stalls, open=not self._call.done(), fault=self._fault)


async def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; stdin ends with it
    options = _options()
    moved = asyncio.Event()
    async with AsyncExitStack() as stack:
        all_consumers = [
            Consumer(await _call(stack, options), stalls=number < options.stalled)
            for number in range(options.count)
        ]
        reading = [asyncio.create_task(consumer.read(moved)) for consumer in all_consumers]
        async for line in _lines():
            offset, seconds = line.split()
            with suppress(TimeoutError):
                await asyncio.wait_for(_reached(int(offset), all_consumers, moved), float(seconds))
            seen = [dataclasses.asdict(consumer.seen()) for consumer in all_consumers]
            print(json.dumps({"at": time.monotonic(), "consumers": seen}), flush=True)
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.tails", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("topic")
    parser.add_argument("count", type=int, help="number of consumers")
    parser.add_argument("stalled", type=int, help="how many of them stop reading early on")
    return parser.parse_args()


async def _call(stack: AsyncExitStack, options: argparse.Namespace) -> Any:
    stub = await stack.enter_async_context(client(options.address))
    return stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic=options.topic, offset=0))


async def _lines() -> AsyncIterator[str]:
    """The lines of stdin, as they arrive."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := await reader.readline():
        yield line.decode()


async def _reached(offset: int, of: Sequence[Consumer], moved: asyncio.Event) -> None:
    while any(consumer.reads and consumer.position < offset for consumer in of):
        moved.clear()
        await moved.wait()


if __name__ == "__main__":
    asyncio.run(main())
