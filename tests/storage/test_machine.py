"""The SQLite engine beside the memory engine: whatever is asked in whatever order, they agree.

Hypothesis makes up the steps, some of which close the SQLite engine and open it again, or crash it. A
failure prints the steps and a blob that repeats them (`@reproduce_failure`).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from storage.support import Store, as_stored, batch, clock, read_all, spec
from takhin.errors import RefusedError
from takhin.model import Batch, CommittedOffset, Header, TimestampType, TopicConfig
from takhin.storage.engine import Engine, PartitionLog, Topic
from takhin.storage.memory_engine import MemoryEngine

names = st.sampled_from(["orders", "Orders", "o.r_d-s"])
groups = st.sampled_from(["billing", "Billing", "it's\n🦆", "nul\x00"])
configs = st.builds(TopicConfig, st.integers(1, 1 << 40), st.sampled_from(TimestampType))
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


async def outcome(question: Callable[[Engine], Awaitable[object]], engine: Engine) -> object:
    """An answer, or a refusal as something that compares."""
    try:
        return await question(engine)
    except RefusedError as error:
        return type(error), str(error), error.details


class EnginesAgree(RuleBasedStateMachine):
    """Each rule asks both engines the same and compares what they answer."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.mkdtemp(prefix="takhin-machine-")
        # Checkpoints every few pages, so that they happen within a test as short as this.
        self.store = Store(Path(self.folder, "data"), checkpoint_pages=8)
        self.memory = MemoryEngine(clock=clock, end_moved=lambda _: None)
        self.topic_ids: dict[str, str] = {}
        self.runner.run(self.store.open())
        self.runner.run(self.memory.open())

    def teardown(self) -> None:
        with ExitStack() as ending:
            ending.callback(shutil.rmtree, self.folder)
            ending.callback(self.runner.close)
            ending.callback(lambda: self.runner.run(self.store.close()))
            self.compare_logs()

    def ask(self, question: Callable[[Engine], Awaitable[object]]) -> object:
        """The answer of both engines, which must be the same."""
        found = self.runner.run(outcome(question, self.store.engine))
        expected = self.runner.run(outcome(question, self.memory))
        assert found == expected
        return found

    def ask_log(self, pick: int, question: Callable[[PartitionLog], Awaitable[object]]) -> object:
        """The answer of both engines' logs of one partition, any of those there are."""
        logs = [
            (log.topic, log.partition) for topic in self.memory.topics.values() for log in topic.partitions
        ]
        topic, partition = logs[pick % len(logs)]
        return self.ask(lambda engine: question(engine.topics[topic].partitions[partition]))

    def compare_logs(self) -> None:
        """Every record, committed offset and range of every log."""
        for topic in self.memory.topics.values():
            for log in topic.partitions:
                self.ask(partial(everything, topic.name, log.partition))

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

    @rule(name=names)
    def delete_topic(self, name: str) -> None:
        if self.ask(lambda engine: engine.delete_topic(name)) is None:
            del self.topic_ids[name]

    @precondition(lambda self: self.topic_ids)
    @rule(pick=picks, sent=st.lists(batches(), min_size=1, max_size=4))
    def append(self, pick: int, sent: Sequence[Batch]) -> None:
        self.ask_log(pick, lambda log: asyncio.gather(*map(log.append, sent)))

    @precondition(lambda self: self.topic_ids)
    @rule(pick=picks, at=places, max_bytes=st.integers(0, 3_000), max_records=st.integers(1, 40))
    def read(self, pick: int, at: int, max_bytes: int, max_records: int) -> None:
        async def read(log: PartitionLog) -> object:
            return as_stored(await log.read(place(log, at), max_bytes=max_bytes, max_records=max_records))

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
    @rule(pick=picks, group_id=groups, at=places, metadata=st.text(max_size=8))
    def commit_offset(self, pick: int, group_id: str, at: int, metadata: str) -> None:
        def commit(log: PartitionLog) -> Awaitable[None]:
            offset = max(0, min(place(log, at), log.end_offset))
            return log.commit_offset(group_id, CommittedOffset(offset, metadata, clock()))

        self.ask_log(pick, commit)

    @precondition(lambda self: self.topic_ids)
    @rule(pick=picks, group_id=groups)
    def forget_group(self, pick: int, group_id: str) -> None:
        self.ask_log(pick, lambda log: log.forget_group(group_id))

    @rule(crashed=st.booleans())
    def reopen(self, *, crashed: bool) -> None:
        self.runner.run(self.store.crash() if crashed else self.store.reopen())
        self.compare_logs()


def summary(topic: Topic) -> object:
    """What both engines say of a topic, its id left out."""
    ranges = [(log.partition, log.start_offset, log.end_offset, log.closed) for log in topic.partitions]
    return topic.name, topic.config, ranges


def place(log: PartitionLog, at: int) -> int:
    """An offset from just below a log's start to just past its end."""
    return log.start_offset - 2 + at % (log.end_offset - log.start_offset + 5)


async def everything(topic: str, partition: int, engine: Engine) -> object:
    """All that a log holds."""
    log = engine.topics[topic].partitions[partition]
    committed = {group_id: await log.committed_offset(group_id) for group_id in await log.group_ids()}
    return await read_all(log), committed


# A passing run takes seconds. A failing one is repeated until its steps are few, which takes minutes.
TestEnginesAgree = pytest.mark.timeout(600)(EnginesAgree.TestCase)
TestEnginesAgree.settings = settings(
    max_examples=15,
    stateful_step_count=30,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
