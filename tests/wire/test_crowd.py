"""Requests of too many elements are found out before they are parsed, and no others are."""

import asyncio
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from takhin.settings import Settings
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.crowd import AT_ONCE, bounds, too_large, too_many_fields

MEGABYTE = 1 << 20
REFUSE = bounds(Settings())


def request(records, value, headers=0):
    message = pb.ProduceMessageRequest(topic="t")
    for _ in range(records):
        record = message.records.add(key=b"k", value=value, timestamp=1)
        for _ in range(headers):
            record.headers.add(key="k", value=b"v")
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("method", "element", "what"),
    [
        ("ProduceMessage", b"\x32\x00", "10000 records"),
        ("ProduceMessage", b"\xb2\x00\x00", "10000 records"),
        ("ProduceMessage", b"\xb2\x80\x80\x00\x00", "10000 records"),
        ("ProduceMessage", b"\x32\x04\x1a\x02\x0a\x00", "10000 records"),
        ("ProduceMessageStream", b"\x1a\x0a" + b"\x1a\x00" * 5, "10000 headers"),
        ("ProduceMessage", b"\x1a\x02\x20\x01", "fields besides headers"),
        ("ProduceMessage", b"\x32\x08" + b"\x20\x01" * 3 + b"\x1a\x00", "10000 records"),
        ("ProduceMessage", b"\x1a\x00", "fields besides headers"),
        ("CommitOffset", b"\x12\x00", "10000 offsets"),
        ("GetCommittedOffsets", b"\x12\x00", "10000 offsets"),
        ("GetOffsetsForTimes", b"\x0a\x00", "1000 queries"),
        ("DescribeTopics", b"\x0a\x00", "4000 topics"),
    ],
)
async def test_a_crowd_is_refused(method, element, what):
    """The bound is named, whichever way tags are written."""
    wire = element * (4 * MEGABYTE // len(element))
    assert what in (await REFUSE[method](wire) or "")


@pytest.mark.parametrize(
    ("records", "value", "headers"),
    [
        (10_000, b"2" * 1_000, 0),
        (10_000, b"\x1a" * 1_000, 0),
        (1_000, os.urandom(10_000), 10),
        (10_000, b"", 1),
        (10, b"", 1_000),
    ],
    ids=["digits", "tags", "random", "empty", "headers"],
)
async def test_what_is_allowed_passes(records, value, headers):
    """Values may hold any bytes, also those that look like tags."""
    assert await REFUSE["ProduceMessage"](request(records, value, headers)) is None


async def test_headers_of_many_records():
    """Those of all records count together."""
    assert "headers" in (await REFUSE["ProduceMessage"](request(1_000, b"", 200)) or "")


async def test_bytes_that_are_no_message():
    """They are counted as far as they make sense: protobuf refuses them."""
    for tail in (b"\xff" * 20, b"\x32\xff", b"\x0b"):
        assert await too_many_fields(b"\x32\x00" * MEGABYTE + tail, 0x32, 10)
        assert not await too_many_fields(tail * 10, 0x32, 10)


RECORD_PARTS = st.fixed_dictionaries(
    {
        "key": st.none() | st.sampled_from([b"", b"\x1a", b"\x32" * 20]),
        "value": st.none()
        | st.sampled_from([b"\x1a\x04\x0a\x02ab", b"\x32\x00", b"\x1a", b"\xb2\x00\x00", b"x"]),
        "times": st.integers(0, 200),
        "headers": st.integers(0, 20),
        "numbers": st.sampled_from([0, 1, 2**31 - 1]),
    }
)


LIKE_HEADERS = {"key": b"k", "value": b"\x1a\x04\x0a\x02ab", "times": 20, "headers": 0, "numbers": 1}


@settings(max_examples=60, deadline=None)
@example(kinds=[LIKE_HEADERS], count=10_000)
@given(kinds=st.lists(RECORD_PARTS, min_size=1, max_size=4), count=st.sampled_from([1, 900, 7_000, 10_000]))
def test_no_batch_within_the_settings_is_refused(kinds, count):
    """Whatever its records look like, with all fields that a record has and as many headers as may be."""
    produce = Settings().produce
    message = pb.ProduceMessageRequest(
        topic="t", partition=1, required_acks=1, timeout_ms=1, producer_id=b"p"
    )
    headers = 0
    for number in range(count):
        kind = kinds[number % len(kinds)]
        value = None if kind["value"] is None else kind["value"] * kind["times"]
        record = message.records.add(key=kind["key"], value=value)
        record.timestamp = record.offset = record.partition = kind["numbers"]
        for _ in range(min(kind["headers"], produce.batch_headers_max - headers)):
            record.headers.add(key="\x1a", value=b"\x1a\x00")
            headers += 1
    assert asyncio.run(REFUSE["ProduceMessage"](message.SerializeToString())) is None


async def test_most_methods_need_no_large_request():
    """What is larger than any such request is refused by name, before it is parsed."""
    assert "65536 bytes" in (await too_large(bytes(65_537)) or "")
    assert "bytes" in (await REFUSE["DescribeTopics"](b"\x0a\xff\xff\x03" + bytes(5 * MEGABYTE)) or "")
    names = pb.DescribeTopicsRequest(topics=["t" * 249] * Settings().topics.partitions_max)
    assert await REFUSE["DescribeTopics"](names.SerializeToString()) is None
    asked = pb.GetCommittedOffsetsRequest(group_id="g" * 255)
    for number in range(Settings().groups.commit_offsets_max):
        asked.partitions.add(topic="t" * 249, partition=number)
    assert await REFUSE["GetCommittedOffsets"](asked.SerializeToString()) is None


async def test_others_have_turns_while_fields_are_counted():
    """One turn counts some thousands of them."""
    counting = asyncio.create_task(REFUSE["ProduceMessage"](b"\x1a\x00" * MEGABYTE))
    turns = 0
    while not counting.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 50 * 1_000 // AT_ONCE
