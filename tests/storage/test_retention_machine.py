"""Retention in both engines beside a list of what was appended: they agree whatever is done.

Hypothesis invents the steps: appends, trims, looks of retention, a clock that jumps, restarts and crashes.
A failure prints the steps and a blob that repeats them (`@reproduce_failure`).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage.support import MEMORY, ClockedStore
from takhin.errors import OffsetOutOfRangeError
from takhin.model import NO_LIMIT, TopicConfig
from takhin.storage.memory import MemoryEngine
from takhin.storage.retention import AHEAD_MS
from takhin.testing.contract import read_all, spec, timed

HOUR_MS = 3_600_000
TOPIC = "t"

ages = st.sampled_from([NO_LIMIT, 1, 10_000, HOUR_MS, 24 * HOUR_MS])
numbers = st.sampled_from([NO_LIMIT, NO_LIMIT, 1, 10, 3_000])
counts = st.sampled_from([1, 2, 5, 1_000, 3_000])
believable = st.integers(-2 * HOUR_MS, AHEAD_MS) | st.sampled_from([0, -1, -HOUR_MS])
far_ahead = st.integers(2 * AHEAD_MS, 1 << 40)
steps_ahead = st.sampled_from([0, 1, 2, 9_999, 10_000, 10_001, HOUR_MS, HOUR_MS + 1, 25 * HOUR_MS])


class Sent(NamedTuple):
    """A record that was appended, and when."""

    timestamp: int
    appended: int


class Retained(RuleBasedStateMachine):
    """A topic with two partitions in both engines; every record that was sent is in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.mkdtemp(prefix="takhin-retained-", dir=MEMORY)
        self.store = ClockedStore(Path(self.folder, "data"), checkpoint_pages=8, open_partitions_max=1)
        self.memory = MemoryEngine(clock=lambda: self.store.now)
        self.sent: tuple[list[Sent], list[Sent]] = ([], [])
        self.trimmed = [0, 0]
        self.believable = True
        """No record and no clock was ever ahead by more than a little: then the ages are exact."""
        self.runner.run(self.store.open())
        self.runner.run(self.memory.open())

    @initialize(age=ages, number=numbers)
    def create(self, age: int, number: int) -> None:
        self.age, self.number = age, number
        wanted = spec(TOPIC, 2, TopicConfig(1 << 20, retention_ms=age, retention_records=number))
        for engine in (self.store.engine, self.memory):
            self.runner.run(engine.create_topic(wanted))

    def teardown(self) -> None:
        with ExitStack() as ending:
            ending.callback(shutil.rmtree, self.folder)
            ending.callback(self.runner.close)
            ending.callback(lambda: self.runner.run(self.store.close()))
            ending.callback(lambda: self.runner.run(self.memory.close()))
            self.retain()

    def logs(self, partition: int):
        return [engine.topics[TOPIC].partitions[partition] for engine in (self.store.engine, self.memory)]

    def send(self, partition: int, count: int, stamp: int) -> None:
        self.sent[partition].extend([Sent(stamp, self.store.now)] * count)
        for log in self.logs(partition):
            self.runner.run(appended(log, [stamp] * count))

    @rule(partition=st.integers(0, 1), count=counts, ahead=believable)
    def append(self, partition: int, count: int, ahead: int) -> None:
        self.send(partition, count, max(0, self.store.now + ahead))

    @rule(partition=st.integers(0, 1), count=counts, ahead=far_ahead)
    def append_ahead(self, partition: int, count: int, ahead: int) -> None:
        self.believable = False
        self.send(partition, count, self.store.now + ahead)

    @rule(step=steps_ahead)
    def time_passes(self, step: int) -> None:
        self.store.now += step

    @rule(step=st.sampled_from([1, HOUR_MS, 100 * HOUR_MS]))
    def the_clock_goes_back(self, step: int) -> None:
        self.believable = False
        self.store.now -= step

    @rule(partition=st.integers(0, 1), share=st.floats(0, 1))
    def trim(self, partition: int, share: float) -> None:
        offset = int(share * len(self.sent[partition]))
        self.trimmed[partition] = max(self.trimmed[partition], offset)
        for log in self.logs(partition):
            self.runner.run(log.trim(offset))

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.store.reopen())

    @rule()
    def crash(self) -> None:
        self.runner.run(self.store.crash())

    @rule()
    def copy(self) -> None:
        self.runner.run(self.store.copy())

    @rule()
    def retain(self) -> None:
        """After a look nothing is there that should have gone; where ages are exact, nothing else."""
        for engine in (self.store.engine, self.memory):
            self.runner.run(engine.retain())
        since = self.store.now - self.age
        for partition, sent in enumerate(self.sent):
            least = max(self.trimmed[partition], 0 if self.number == NO_LIMIT else len(sent) - self.number)
            if self.age != NO_LIMIT:
                rest = range(least, len(sent))
                least = next((at for at in rest if sent[at].timestamp >= since), len(sent))
            for log in self.logs(partition):
                if self.believable:
                    assert log.start_offset == least
                else:
                    assert log.start_offset >= min(least, len(sent))

    @invariant()
    def the_rest_is_as_sent(self) -> None:
        """What is there is what was sent, without a gap, up to the end."""
        for partition, sent in enumerate(self.sent):
            for log in self.logs(partition):
                found = self.runner.run(read(log))
                first = found[0][0] if found else len(sent)
                assert found == [(at, sent[at].timestamp) for at in range(first, len(sent))]
                assert log.end_offset == len(sent)


async def read(log):
    """(offset, timestamp) of all records. The engine may remove some at any moment."""
    while True:
        try:
            return [(row[0], row[1]) for row in await read_all(log)]
        except OffsetOutOfRangeError:
            continue


async def appended(log, stamps):
    """Append records with these timestamps, as one commit group."""
    await log.append(timed(*stamps))


TestRetained = Retained.TestCase
TestRetained.settings = settings(
    max_examples=8,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
