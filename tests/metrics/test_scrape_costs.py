"""A scrape of 1,000 partitions takes at most 50 ms, and never more than 10 ms of the event loop at a time.

Both are times of the loop's own thread on a processor: they do not depend on what else the machine does.
"""

import asyncio
import time

import pytest

from metrics.support import send, server
from takhin.model import Batch, CommittedOffset, TopicConfig, TopicPartition, TopicSpec

SCRAPE_MS_MAX = 50.0
TURN_MS_MAX = 10.0
TRIES = 5
ASK = b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\nAccept-Encoding: gzip\r\n\r\n"


class Turns:
    """Watches the loop: the longest turn, on the processor, since `forget`."""

    def __init__(self):
        self.longest_ms = 0.0
        self._task = asyncio.create_task(self._watch())

    def forget(self):
        self.longest_ms = 0.0

    async def stop(self):
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _watch(self):
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest_ms = max(self.longest_ms, 1_000 * (now - before))
            before = now


@pytest.mark.timed
async def test_1000_partitions(memory, figures):
    """10 topics with 100 partitions each in files, all of them read by a group: the best of some scrapes."""
    async with server(storage__engine="sqlite", data_dir=memory / "data") as running:
        offsets = {}
        for n in range(10):
            topic = await running.engine.create_topic(TopicSpec(f"topic-{n}", 100, TopicConfig(1 << 20)))
            for log in topic.partitions:
                offsets[TopicPartition(log.topic, log.partition)] = CommittedOffset(0, "", 1)
            await topic.partitions[0].append(Batch([None], [b"x"], [1], {}, 1))
        await running.engine.offsets.commit("group", offsets)
        turns, found = Turns(), []
        for _ in range(TRIES):
            turns.forget()
            began, used = time.perf_counter(), time.thread_time()
            answer = await send(running.metrics.address, ASK)
            took = 1_000 * (time.perf_counter() - began), 1_000 * (time.thread_time() - used)
            assert answer.startswith(b"HTTP/1.1 200")
            found.append((min(took), turns.longest_ms))
        await turns.stop()
    took_ms, turn_ms = (min(column) for column in zip(*found, strict=True))
    figures(f"1,000 partitions: scrape {took_ms:.1f} ms, longest turn {turn_ms:.1f} ms")
    assert took_ms <= SCRAPE_MS_MAX
    assert turn_ms <= TURN_MS_MAX


@pytest.mark.timed
async def test_20000_groups(figures):
    """So many groups that their members alone would be too many series: still no long turn."""
    async with server() as running:
        await running.engine.create_topic(TopicSpec("orders", 1, TopicConfig(1 << 20)))
        at = TopicPartition("orders", 0)
        for n in range(20_000):
            await running.engine.offsets.commit(f"group-{n}", {at: CommittedOffset(0, "", 1)})
        turns, found = Turns(), []
        for _ in range(TRIES):
            turns.forget()
            assert (await send(running.metrics.address, ASK)).startswith(b"HTTP/1.1 200")
            found.append(turns.longest_ms)
        await turns.stop()
    figures(f"20,000 groups: longest turn {min(found):.1f} ms")
    assert min(found) <= TURN_MS_MAX
