"""The SQLite engine beside the memory engine: whatever is asked in whatever order, they agree.

Hypothesis invents the steps, some of which close the SQLite engine and open it again, crash it, or fail its
commits. A failure prints the steps and a blob that repeats them (`@reproduce_failure`).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from faults.failing_disk import Plan, failing_disk
from storage.support import MEMORY, Store
from takhin import topic_configs
from takhin.errors import RefusedError, StorageFullError
from takhin.model import (
    Batch,
    CommittedOffset,
    Header,
    Source,
    TimestampType,
    TopicConfig,
    TopicPartition,
    TopicSpec,
)
from takhin.settings import Settings
from takhin.storage.contract import Engine, PartitionLog, Topic
from takhin.storage.memory import MemoryEngine
from takhin.storage.memory_log import MemoryLog
from takhin.testing.contract import as_stored, batch, changed, clock, name_of, numbered, read_all, spec, under

names = st.sampled_from(["orders", "Orders", "o.r_d-s"])
groups = st.sampled_from(["billing", "Billing", "it's\n🦆", "nul\x00"])
# No retention: by it the SQLite engine removes records by itself.
said = {
    "delete.retention.ms": "5",
    "read.only": "true",
    "cleanup.policy": "compact",
    "min.compaction.lag.ms": "7",
}
whole_configs = st.builds(TopicConfig, st.integers(1, 1 << 40), st.sampled_from(TimestampType))
configs = whole_configs | st.sets(st.sampled_from(sorted(said))).map(
    lambda names: topic_configs.parse({name: said[name] for name in names}, Settings())
)
"""Some say everything themselves, others leave most to the broker."""
picks = st.integers(0, 8)
places = st.integers(0, 10_000)
times = st.integers(0, 60)
few_bytes = st.one_of(st.none(), st.binary(max_size=40))
some_bytes = few_bytes | st.just(b"x" * 20_000)  # longer than a page
header = st.builds(Header, st.text(min_size=1, max_size=4), st.binary(max_size=20))
headers = st.just(()) | st.lists(header, max_size=3)
small_records = st.lists(st.tuples(few_bytes, few_bytes, times, headers), min_size=1, max_size=4)
records = st.lists(st.tuples(few_bytes, some_bytes, times, headers), min_size=1, max_size=6)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """A batch of a few records, or of the same few small ones many times over."""
    many = st.tuples(small_records, st.sampled_from([30, 700])).map(lambda drawn: drawn[0] * drawn[1])
    rows = draw(records | records | many)
    keys, values, timestamps, of_records = zip(*rows, strict=True)
    some = {position: of_record for position, of_record in enumerate(of_records) if of_record}
    return batch(*values, keys=keys, timestamps=timestamps, headers=some)


PARTITIONS_MAX = 6
REMEMBERED = {"producers_max": 3, "sources_max": 3}
"""Fewer producers and sources are remembered than there are, so that some are forgotten all the time."""


class Send(NamedTuple):
    """A batch under a condition, relative to the state of its log at that time."""

    producer_id: bytes
    records: int
    back: int
    """Which of the producer's last batches is sent again, 1 being the last; 0 stands for the next one."""
    off: int
    """The error in the sequence."""
    expected: int | None
    """The expected offset's distance from the end; None: no offset is expected."""
    source: Source | None

    def batch(self, log: MemoryLog, ahead: int) -> Batch:
        """The batch to send. ahead: how many records may have been stored before it."""
        known = sorted(log._producers.get(self.producer_id.ljust(16), ()))
        sequence = known[-1].sequence + known[-1].record_count if known else 0
        records = self.records
        if 0 < self.back <= len(known):
            sequence, records = known[-self.back][:2]
        expected = None if self.expected is None else max(0, log.end_offset + ahead + self.expected)
        sent = numbered(records)
        if not self.producer_id:
            return under(sent, expected_offset=expected, source=self.source)
        return under(
            sent,
            self.producer_id,
            max(0, sequence + self.off),
            expected_offset=expected,
            source=self.source,
        )


mostly_none = st.sampled_from([0, 0, 0, 0, 1, -1])
producers = (b"p", b"q", b"r", b"s", b"t")
incarnations = st.sampled_from(["one", "two"])
"""Of input logs that there never were, so that they make room for each other."""
sends = st.builds(
    Send,
    st.sampled_from([b"", *producers]),
    st.integers(1, 3),
    st.sampled_from([0, 0, 0, 1, 2, 5, 6]),
    mostly_none,
    st.none() | mostly_none,
    st.none() | st.builds(Source, groups, st.just("in"), st.just(0), st.integers(0, 9), incarnations),
)


async def outcome(question: Callable[[Engine], Awaitable[object]], engine: Engine) -> object:
    """An answer, or a refusal, as a value that compares."""
    try:
        return await question(engine)
    except RefusedError as error:
        return type(error), str(error), error.details


class EnginesAgree(RuleBasedStateMachine):
    """Each rule asks both engines the same and compares their answers."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.mkdtemp(prefix="takhin-machine-", dir=MEMORY)
        # Checkpoints come every few pages, so that they happen within a test as short as this.
        self.disks = ExitStack()
        self.disk = self.disks.enter_context(failing_disk())
        self.store = Store(Path(self.folder, "data"), checkpoint_pages=8, **REMEMBERED)
        self.memory = MemoryEngine(**REMEMBERED)
        self.topic_ids: dict[str, str] = {}
        self.runner.run(self.store.open())
        self.runner.run(self.memory.open())

    def teardown(self) -> None:
        with ExitStack() as ending:
            ending.callback(shutil.rmtree, self.folder)
            ending.callback(self.runner.close)
            ending.callback(self.disks.close)
            ending.callback(lambda: self.runner.run(self.store.close()))
            self.compare_logs()

    def ask(self, question: Callable[[Engine], Awaitable[object]]) -> object:
        """Ask both engines; returns their answer, which must be the same."""
        found = self.runner.run(outcome(question, self.store.engine))
        expected = self.runner.run(outcome(question, self.memory))
        assert found == expected
        return found

    def ask_log(self, pick: int, question: Callable[[PartitionLog], Awaitable[object]]) -> object:
        """Ask both engines' logs of one partition, which is any of the existing ones."""
        return self.ask_of(self.picked(pick), question)

    def ask_of(self, log: MemoryLog, question: Callable[[PartitionLog], Awaitable[object]]) -> object:
        return self.ask(lambda engine: question(engine.topics[log.topic].partitions[log.partition]))

    def picked(self, pick: int) -> MemoryLog:
        """Any of the existing logs."""
        logs = [log for topic in self.memory.topics.values() for log in topic.partitions]
        return logs[pick % len(logs)]

    def compare_logs(self) -> None:
        """Compare every record, range and remembered batch of every log, and every committed offset."""
        self.ask(committed)
        for topic in self.memory.topics.values():
            for log in topic.partitions:
                self.ask(partial(everything, topic.name, log.partition))
                self.compare_remembered(log)
                self.compare_next_times(log)

    def compare_remembered(self, log: MemoryLog) -> None:
        """Remembered batches are duplicates when they are sent again; both engines forget the same ones."""
        for producer_id in producers:
            known = log._producers.get(producer_id.ljust(16), ())
            batches = [under(numbered(each.record_count), producer_id, each.sequence) for each in known]
            self.ask_of(log, partial(append, batches or [under(numbered(1), producer_id, 1)]))
        for (group_id, incarnation_id), taken in sorted(log._sources.items()):
            source = Source(group_id, taken.topic, 0, taken.offset, incarnation_id)
            (answer,) = self.ask_of(log, partial(append, [under(numbered(1), source=source)]))
            assert answer.duplicate

    def compare_next_times(self, log: MemoryLog) -> None:
        """When the next record of a group was stamped is what the other engine finds, if it is known."""
        found = self.store.log(log.topic, log.partition)
        for group_id in self.memory.offsets.groups():
            if (committed := self.memory.offsets.of(group_id).get(name_of(log))) is not None:
                offset = max(committed.offset, log.start_offset)
                if (known := found.known_timestamp(offset)) is not None:
                    assert known == self.runner.run(log.timestamp_from(offset))

    @invariant()
    def same_catalogue(self) -> None:
        """Topics, configs and ranges are the same after every step; ids change with each creation only."""
        found = self.store.engine.topics
        assert {name: summary(topic) for name, topic in found.items()} == {
            name: summary(topic) for name, topic in self.memory.topics.items()
        }
        assert {name: topic.topic_id for name, topic in found.items()} == self.topic_ids

    @rule(name=names, num_partitions=st.integers(1, 3), config=configs)
    def create_topic(self, name: str, num_partitions: int, config: TopicConfig) -> None:
        async def create(engine: Engine) -> str:
            return (await engine.create_topic(spec(name, num_partitions, config))).name

        if self.ask(create) == name:
            self.topic_ids[name] = self.store.engine.topics[name].topic_id

    @rule(name=names, num_partitions=st.integers(1, 4), config=configs)
    def alter_topic(self, name: str, num_partitions: int, config: TopicConfig) -> None:
        async def alter(engine: Engine) -> int:
            return len((await changed(engine, spec(name, num_partitions, config))).partitions)

        self.ask(alter)

    @precondition(lambda self: self.topic_ids)
    @rule(
        pick=picks, sent=st.lists(batches(), min_size=1, max_size=4), more=st.integers(0, 2), config=configs
    )
    def alter_beside_appends(self, pick: int, sent: Sequence[Batch], more: int, config: TopicConfig) -> None:
        """Appends before and after a change is asked for land in their order, whatever the topic becomes."""

        async def both(log: PartitionLog, engine: Engine) -> object:
            def wanted(topic: Topic) -> TopicSpec:
                return spec(log.topic, min(len(topic.partitions) + more, PARTITIONS_MAX), config)

            before = [log.append(batch) for batch in sent]
            change = asyncio.ensure_future(engine.alter_topic(log.topic, wanted))
            await asyncio.sleep(0)
            after = [log.append(batch) for batch in sent]
            landed = await asyncio.gather(*before, *after)
            altered = await change
            new = await asyncio.gather(*(of.append(sent[0]) for of in altered.partitions[-1:]))
            return landed, len(altered.partitions), new

        picked = self.picked(pick)
        self.ask(lambda engine: both(engine.topics[picked.topic].partitions[picked.partition], engine))

    @rule(name=names)
    def delete_topic(self, name: str) -> None:
        if self.ask(lambda engine: engine.delete_topic(name)) is None:
            del self.topic_ids[name]

    @precondition(lambda self: self.topic_ids)
    @rule(pick=picks, sent=st.lists(batches(), min_size=1, max_size=4))
    def append(self, pick: int, sent: Sequence[Batch]) -> None:
        self.ask_log(pick, lambda log: asyncio.gather(*map(log.append, sent)))

    @precondition(lambda self: self.topic_ids)
    @rule(pick=picks, sent=st.lists(sends, min_size=1, max_size=6), together=st.booleans())
    def append_under_conditions(self, pick: int, sent: Sequence[Send], *, together: bool) -> None:
        if together:
            batches, ahead = [], 0
            for send in sent:
                batches.append(send.batch(self.picked(pick), ahead))
                ahead += send.records
            self.ask_log(pick, partial(append, batches))
        else:
            for send in sent:
                self.ask_log(pick, partial(append, [send.batch(self.picked(pick), 0)]))

    @precondition(lambda self: self.topic_ids)
    @rule(pick=picks, sent=st.lists(sends, min_size=1, max_size=4))
    def fail_to_append(self, pick: int, sent: Sequence[Send]) -> None:
        """The disk has no room for the group: nothing of it is left in the file or in memory."""
        picked = self.picked(pick)
        batches = [send.batch(picked, 0) for send in sent]
        path = self.store.data_dir / "topics" / picked.topic / f"{picked.partition}.db"
        self.disk.plan = Plan("write", path, 1, for_good=False, wal=True, code=apsw.SQLITE_FULL)

        async def fail() -> list[object]:
            log = self.store.log(picked.topic, picked.partition)
            answers = await asyncio.gather(*map(log.append, batches), return_exceptions=True)
            await self.store.engine._parts.upkeep.look_at_space()
            return answers

        answers = self.runner.run(fail())
        assert {type(answer) for answer in answers} == {StorageFullError}
        self.disk.plan = None
        self.compare_remembered(picked)

    @precondition(lambda self: self.topic_ids)
    @rule(pick=picks, at=places, max_bytes=st.integers(0, 3_000), max_records=st.integers(1, 40))
    def read(self, pick: int, at: int, max_bytes: int, max_records: int) -> None:
        async def read(log: PartitionLog) -> object:
            found = await log.read(place(log, at), max_bytes=max_bytes, max_records=max_records)
            return as_stored(found), found.next_offset

        self.ask_log(pick, read)

    @precondition(lambda self: self.topic_ids)
    @rule(pick=picks, timestamp=times)
    def offset_for_time(self, pick: int, timestamp: int) -> None:
        self.ask_log(pick, lambda log: log.offset_for_time(timestamp))

    @precondition(lambda self: self.topic_ids)
    @rule(pick=picks, at=places)
    def trim(self, pick: int, at: int) -> None:
        self.ask_log(pick, lambda log: log.trim(place(log, at)))

    @precondition(lambda self: self.topic_ids)
    @rule(pick=picks, lag=st.sampled_from([0, 0, 20]), retention=st.sampled_from([0, 0, 20]), now=times)
    def compact(self, pick: int, lag: int, retention: int, now: int) -> None:
        """Both remove the same records, and agree on whether another pass is due."""
        picked = self.picked(pick)
        # Which appends share a group is not the same in both, nor known after a start.
        picked._last_group = self.store.log(picked.topic, picked.partition)._state.last_group
        config = TopicConfig(1, delete_retention_ms=retention, min_compaction_lag_ms=lag)

        async def compact(log: PartitionLog) -> object:
            due = await log.compaction_due(config, now)
            return due, await log.compact(config, now), await log.compaction_due(config, now)

        self.ask_of(picked, compact)

    @precondition(lambda self: self.topic_ids)
    @rule(of=st.lists(picks, max_size=4), group_id=groups, at=places, metadata=st.text(max_size=8))
    def commit_offsets(self, of: Sequence[int], group_id: str, at: int, metadata: str) -> None:
        offsets = {}
        for log in map(self.picked, of):
            offset = max(0, min(place(log, at), log.end_offset))
            offsets[name_of(log)] = CommittedOffset(offset, metadata, clock())
        self.ask(lambda engine: engine.offsets.commit(group_id, offsets))

    @rule(group_id=groups, name=names, partition=st.integers(-1, 5))
    def commit_offset_anywhere(self, group_id: str, name: str, partition: int) -> None:
        offsets = {TopicPartition(name, partition): CommittedOffset(0, "", clock())}
        self.ask(lambda engine: engine.offsets.commit(group_id, offsets))

    @rule(group_id=groups)
    def forget_group(self, group_id: str) -> None:
        self.ask(lambda engine: engine.offsets.forget(group_id))

    @rule(again=st.sampled_from([Store.reopen, Store.crash, Store.copy]))
    def reopen(self, again: Callable[[Store], Awaitable[None]]) -> None:
        self.runner.run(again(self.store))
        self.compare_logs()


async def append(batches: Sequence[Batch], log: PartitionLog) -> object:
    """The answers to batches that are sent at once, with refusals as values that compare."""
    answers = await asyncio.gather(*map(log.append, batches), return_exceptions=True)
    return [str(answer) if isinstance(answer, RefusedError) else answer for answer in answers]


def summary(topic: Topic) -> object:
    """What both engines report of a topic and its logs, without ids and sizes."""
    logs = [
        (
            *(log.partition, log.start_offset, log.end_offset, log.closed),
            *(log.record_count, log.first_timestamp, log.last_timestamp),
        )
        for log in topic.partitions
    ]
    return topic.name, topic.config, logs


def place(log: PartitionLog, at: int) -> int:
    """An offset from just below a log's start to just past its end."""
    return log.start_offset - 2 + at % (log.end_offset - log.start_offset + 5)


async def everything(topic: str, partition: int, engine: Engine) -> object:
    """Everything that a log holds."""
    return await read_all(engine.topics[topic].partitions[partition])


async def committed(engine: Engine) -> object:
    """Everything that groups have committed."""
    return [(group_id, dict(engine.offsets.of(group_id))) for group_id in engine.offsets.groups()]


# A passing run takes seconds. A failing one is repeated until it has few steps, which takes minutes.
TestEnginesAgree = pytest.mark.timeout(600)(EnginesAgree.TestCase)
TestEnginesAgree.settings = settings(
    max_examples=10,
    stateful_step_count=30,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
