"""Records that were read ahead and are handed out, one by one and together, as they are made."""

from __future__ import annotations

import asyncio
import gc
import pickle
import sys
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from client.support import ALL, produce
from takhin.client import Consumer, Record, RecordBatch, sync
from takhin.client.consuming.prefetched import Prefetched
from takhin.client.unread import UnreadColumns, ordinary
from takhin.model import Chunk, Header, Records, TopicPartition
from takhin.wire.columns import ResponseColumns
from takhin.wire.encode import consumed, encoded

AT = TopicPartition("t", 3)
FIELDS = ("offset", "timestamp", "key", "value", "headers")


def response(records, end_offset=0):
    """A response as a broker sends it. records: (offset, timestamp, key, value, headers) each."""
    rows = Records([of[:4] for of in records], {of[0]: of[4] for of in records if of[4]}, 0)
    wire = asyncio.run(consumed("t", 3, Chunk(rows, end_offset), encoded(3, rows)))
    plain = ordinary(AT, wire)
    return UnreadColumns(AT, ResponseColumns(wire), len(wire)) if plain is None else plain


def numbered(*offsets):
    """Records without a key, whose values name their offsets."""
    return [(offset, 5, None, b"%d" % offset, ()) for offset in offsets]


MIXED = [
    (7, 1, None, b"", ()),
    (9, 2, b"", None, [Header("a", b"1"), Header("a", b"2")]),
    (10, 2, b"k", b"v", ()),
    (40, 3, b"k", b"v", [Header("b", b"")]),
]


def taken(*limits):
    """Batches of so many records of MIXED."""
    prefetched = Prefetched(AT, 7, 0, 1 << 20)
    prefetched.add(response(MIXED))
    assert prefetched.load()
    return [prefetched.take(limit) for limit in limits]


def test_a_batch_has_its_records_and_their_columns():
    """The records are a sequence like any list of them; all values are there without the records."""
    expected = [Record("t", 3, *of) for of in MIXED]
    (batch,) = taken(None)
    records = batch.records
    assert (batch.topic, batch.partition, len(records)) == ("t", 3, 4)
    assert list(records) == list(records) == expected == records
    assert records != expected[1:]
    assert [records[i] for i in range(-4, 4)] == expected * 2
    assert records[1:3] == expected[1:3]
    assert records[::-2] == expected[::-2]
    assert list(reversed(records)) == expected[::-1]
    assert expected[2] in records
    assert records.index(expected[2]) == 2
    assert repr(records) == repr(expected)
    assert type(records[0]) is Record
    assert pickle.loads(pickle.dumps(batch)) == batch == (*batch[:2], expected, batch.end_offset)
    with pytest.raises(IndexError):
        records[4]
    made = RecordBatch("t", 3, expected, batch.end_offset)  # by a user's test, of records
    for of in (batch, made):
        columns = of.offsets, of.timestamps, of.keys, of.values
        assert [list(column) for column in columns] == [[getattr(r, f) for r in expected] for f in FIELDS[:4]]


def test_batches_of_a_response_are_its_parts():
    """Batches that take turns at a response have the right headers each, and nothing twice."""
    parts = taken(1, 2, 5)
    assert [record for batch in parts for record in batch.records] == [Record("t", 3, *of) for of in MIXED]
    assert [len(batch.records) for batch in parts] == [1, 2, 1]


class HandingOut(RuleBasedStateMachine):
    """Records one by one, in batches, and the end of it, in any order, beside a plain list."""

    @initialize(start=st.integers(0, 5))
    def begin(self, start):
        self.prefetched = Prefetched(AT, start, 0, 1 << 20)
        self.loaded, self.waiting = [], []
        self.position = self.added = start

    @rule(steps=st.lists(st.integers(1, 3), min_size=1, max_size=6), headers=st.booleans())
    def a_response_comes(self, steps, headers):
        records = []
        for step in steps:  # above 1: something is gone, as after compaction
            self.added += step
            record = numbered(self.added)[0]
            records.append((*record[:4], [Header("h", record[3])]) if headers and step > 1 else record)
        self.prefetched.add(response(records))
        self.waiting.append(records)

    @rule()
    def it_is_loaded(self):
        if not self.loaded and self.waiting:
            self.loaded = self.waiting.pop(0)
            self.position = self.loaded[0][0]
        assert self.prefetched.load() == bool(self.loaded)

    def handed(self, count):
        given, self.loaded = self.loaded[:count], self.loaded[count:]
        if given:
            self.position = self.loaded[0][0] if self.loaded else given[-1][0] + 1
        return [Record("t", 3, *of) for of in given]

    @rule()
    def one_is_asked_for(self):
        assert [*filter(None, [next(self.prefetched.records, None)])] == self.handed(1)

    @rule(count=st.integers(1, 4) | st.none())
    def some_are_taken(self, count):
        expected = self.handed(len(self.loaded) if count is None else count)
        assert self.prefetched.take(count).records == expected

    @rule()
    def nothing_more(self):
        self.prefetched.clear()
        self.loaded, self.waiting = [], []
        assert next(self.prefetched.records, None) is None

    @invariant()
    def it_is_where_it_should_be(self):
        assert self.prefetched.position == self.position
        assert self.prefetched.empty == (not self.loaded and not self.waiting)


TestHandingOut = HandingOut.TestCase
TestHandingOut.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_what_another_thread_clears_is_handed_out_or_left():
    """A record is given to the thread that iterates, or stays: the position is behind the last one given."""
    count, before = 400, sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(150):
            prefetched = Prefetched(AT, 0, 0, 1 << 20)
            prefetched.add(response(numbered(*range(count))))
            prefetched.load()
            given = []

            def iterate(records=prefetched.records, given=given):
                given.extend(record.offset for record in records)

            thread = threading.Thread(target=iterate)
            thread.start()
            while thread.is_alive() and len(given) < count // 4:
                pass
            prefetched.clear()
            position = prefetched.position
            thread.join()
            assert given == list(range(position))
            assert prefetched.position == position
    finally:
        sys.setswitchinterval(before)


async def test_records_that_wait_are_not_made(server, topic):
    """What is read ahead is no object for each record, which the garbage collector would look at."""
    await produce(server, topic, [b"x"] * 2_000)
    async with Consumer(server) as consumer:
        await consumer.assign_topics(topic, start=ALL)
        async for record in consumer:
            if record.offset == 1_000:
                break
        waiting = sum(isinstance(of, Record) for of in gc.get_objects())
        assert waiting < 100
        batch = await anext(consumer.batches())
        assert len(batch.values) == len(batch.records) == 2_000 - 1_001
        assert sum(isinstance(of, Record) for of in gc.get_objects()) < 100


def test_one_by_one_and_batches_take_turns(server, topic):
    """Both ways of reading may be mixed on either face; the next record is the one after the last."""

    async def mixed():
        async with Consumer(server) as consumer:
            await consumer.assign_topics(topic, start=ALL)
            batches, offsets = consumer.batches(3), []
            for _ in range(5):
                offsets.append((await anext(consumer)).offset)
                assert consumer.position(topic, 0) == offsets[-1] + 1
                offsets += (await anext(batches)).offsets
            return offsets

    with sync.Producer(server) as producer:
        producer.append(topic, [b"%d" % number for number in range(20)], partition=0)
    assert asyncio.run(mixed()) == list(range(20))
    with sync.Consumer(server) as consumer:
        consumer.assign_topics(topic, start=ALL)
        batches, offsets = consumer.batches(3), []
        for _ in range(5):
            offsets.append(next(consumer).offset)
            offsets += next(batches).offsets
    assert offsets == list(range(20))
