"""Reading by the compiled part of the client: what Python reads, or nothing."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import time
import weakref
from types import SimpleNamespace

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.reading import AT, seen, wire_of
from client.support import ALL, in_collection, produce
from takhin.client import Consumer, Record, compiled
from takhin.client.consuming.iterating import GeneratedRecords
from takhin.client.unread import UnreadColumns, ordinary
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.columns import ResponseColumns

pytestmark = pytest.mark.skipif(compiled.module is None, reason="the compiled part was not built, or is off")

EXAMPLES = int(os.environ.get("COMPILED_EXAMPLES", "300"))
"""Of each differential test."""

RECORD = st.builds(
    pb.Record,
    key=st.none() | st.binary(max_size=200),
    value=st.none() | st.binary(max_size=200),
    headers=st.just([]) | st.just([pb.RecordHeader(key="h", value=b"v")]),
    timestamp=st.integers(0, (1 << 63) - 1) | st.just(1_700_000_000_000),
    offset=st.integers(0, (1 << 63) - 1) | st.integers(1, 300),
    partition=st.just(3),
).map(pb.Record.SerializeToString)
ODD = (
    b"",
    b"\x0a\x01k",
    b"\x08\x01",
    b"\xa2\x06\x01x",
    b"\x20\x01\x20\x02\x28\x01",
    b"\x20\x01\x28\x81",
    b"\x22\x00",
)
STEPS = st.lists(
    st.just(("next",)) | st.tuples(st.just("take"), st.none() | st.integers(0, 5)) | st.just(("clear",)),
    max_size=8,
)


def check(wire, steps):
    """Fail if C reads something else than Python, or what Python refuses. Returns whether C reads it."""
    plain = ordinary(AT, wire)
    if plain is None:
        return False
    assert seen(plain, steps) == seen(UnreadColumns(AT, ResponseColumns(wire), len(wire)), steps)
    return True


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(RECORD | st.sampled_from(ODD), max_size=8), STEPS)
@example([], [("next",), ("take", None), ("clear",)])
def test_whatever_is_read_is_the_same(records, steps):
    """One by one and together, in any order, also of records that no broker writes."""
    check(wire_of(records), steps)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(RECORD, min_size=1, max_size=4), st.data())
def test_bytes_that_were_changed_are_read_alike_or_left_to_python(records, data):
    """Cut short, or with another byte anywhere: never past the end, and never anything else than Python."""
    wire = bytearray(wire_of(records))
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] = data.draw(st.integers(0, 255))
    wire = bytes(wire[: data.draw(st.integers(at, len(wire)))])
    try:
        pb.ConsumeMessagesResponse.FromString(wire)
        ResponseColumns(wire)
    except DecodeError:
        if wire[:1] == b"\x0a" and (plain := ordinary(AT, wire)) is not None:
            # Only a topic that is no text: nobody looks at it, and the columns do not either.
            assert seen(plain, []) == seen(UnreadColumns(AT, ResponseColumns(wire), len(wire)), [])
        return
    check(wire, [("next",), ("take", None)])


def test_ordinary_responses_are_read_in_c():
    """Those that a broker sends; else all tests above would pass if C read nothing."""
    records = [
        pb.Record(key=b"k", value=b"v", timestamp=5, offset=number, partition=3).SerializeToString()
        for number in range(1, 9)
    ]
    assert check(wire_of(records), [("next",), ("take", 2), ("next",), ("take", None), ("next",)])
    assert check(wire_of([]), [("next",)])
    assert not check(
        wire_of([*records, pb.Record(offset=(1 << 63) - 1, timestamp=1).SerializeToString()]), []
    )


def eight(first):
    """A response with eight records, the first one at this offset."""
    return wire_of(
        pb.Record(value=b"v", timestamp=5, offset=number, partition=3).SerializeToString()
        for number in range(first, first + 8)
    )


def test_records_that_are_cleared_while_they_are_taken_are_no_gap():
    """When a list is made, the garbage collector may run any code, and let the loop's thread clear them."""
    plain = ordinary(AT, eight(1))
    columns = in_collection(plain.clear, lambda: plain.take(None))
    taken = len(columns.offsets)
    assert len(plain) == 0
    assert taken in {0, 8}
    assert [len(of) for of in (columns.timestamps, columns.keys, columns.values, columns.headers)] == [
        taken
    ] * 4
    assert [record.offset for record in columns] == [*range(1, 9)][:taken]


def test_a_record_counts_for_what_it_was_taken_from():
    """Also where others begin to be handed out while it is made."""
    one, other = (
        SimpleNamespace(records=ordinary(AT, eight(first)), processed=0, paused=False) for first in (1, 101)
    )
    steps = compiled.Steps(None, time.monotonic)
    assert steps.begin(one, math.inf).offset == 1
    step = anext(steps)
    with pytest.raises(StopIteration) as stop:
        in_collection(lambda: steps.begin(other, math.inf), lambda: step.send(None))
    assert (stop.value.value.offset, one.processed, other.processed) in {(2, 2, 101), (102, 1, 102)}
    assert len(one.records) + len(other.records) == 13


@pytest.fixture(params=["c", "python"])
def way(request, monkeypatch):
    """Both ways of reading, one after the other."""
    if request.param == "python":
        monkeypatch.setattr(compiled, "Steps", None)
        monkeypatch.setattr(compiled, "unread", None)
    return request.param


async def test_a_step_that_is_given_up_loses_no_record(way, server, topic):
    """The next record is taken when a step is awaited, by however many, in whatever order, and only once."""
    await produce(server, topic, [b"%d" % number for number in range(30)])
    async with Consumer(server) as consumer:
        await consumer.assign_topics(topic, start=ALL)
        records = aiter(consumer)
        assert (type(records) is GeneratedRecords) == (way == "python")
        assert (await anext(records)).offset == 0
        anext(records)
        given_up = anext(records)
        assert (await anext(records)).offset == 1
        given_up.close()
        with pytest.raises(ZeroDivisionError):
            anext(records).throw(ZeroDivisionError())
        assert (await anext(records)).offset == 2
        assert (await asyncio.wait_for(anext(records), 5)).offset == 3
        first, second = anext(records), anext(records)
        assert [(await second).offset, (await first).offset] == [4, 5]
        with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
            await first
        task = asyncio.ensure_future(records.__anext__())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted([of.offset for of in await asyncio.gather(*(anext(records) for _ in range(5)))]) == [
            *range(6, 11)
        ]
        step = anext(records).__await__()
        with pytest.raises(StopIteration) as stop:
            step.send(None)
        assert type(stop.value.value) is Record
        assert stop.value.value.offset == 11
        consumer.pause((topic, 0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(records), 0.05)
        consumer.resume((topic, 0))
        assert [of.offset async for of in consumer] == [*range(12, 30)]
        with pytest.raises(StopAsyncIteration):
            await anext(records)


def give_up(objects):
    objects.clear()
    gc.collect()


async def test_a_consumer_that_nobody_refers_to_goes(way, server, topic):
    """Its records and its steps are no cycle that the garbage collector does not see."""
    await produce(server, topic, [b"x"] * 30)
    consumer = Consumer(server)
    await consumer.open()
    await consumer.assign_topics(topic, start=ALL)
    records = aiter(consumer)
    step = anext(records)
    await step
    gone = weakref.ref(consumer)
    del records, step
    collected = [consumer]
    del consumer
    with pytest.warns(ResourceWarning, match="was not closed"):
        give_up(collected)
    assert gone() is None
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})  # what it has left behind ends
