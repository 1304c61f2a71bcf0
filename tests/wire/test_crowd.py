"""Requests of too many elements are found out before they are parsed, and no others are."""

import os

import pytest

from takhin.settings import Settings
from takhin.v1 import takhin_pb2 as pb
from takhin.wire.crowd import bounds, too_many_fields

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
        ("CommitOffset", b"\x12\x00", "10000 offsets"),
        ("GetCommittedOffsets", b"\x12\x00", "10000 offsets"),
        ("DescribeTopics", b"\x0a\x00", "4000 topics"),
        ("CreateTopic", b"\x22\x00", "100 configs"),
    ],
)
def test_a_crowd_is_refused(method, element, what):
    """The bound is named, whichever way tags are written."""
    wire = element * (4 * MEGABYTE // len(element))
    assert what in (REFUSE[method](wire) or "")


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
def test_what_is_allowed_passes(records, value, headers):
    """Values may hold any bytes, also those that look like tags."""
    assert REFUSE["ProduceMessage"](request(records, value, headers)) is None


def test_headers_of_many_records():
    """Those of all records count together."""
    assert "headers" in (REFUSE["ProduceMessage"](request(1_000, b"", 200)) or "")


def test_bytes_that_are_no_message():
    """They are counted as far as they make sense: protobuf refuses them."""
    for tail in (b"\xff" * 20, b"\x32\xff", b"\x0b"):
        assert too_many_fields(b"\x32\x00" * MEGABYTE + tail, 0x32, 10)
        assert not too_many_fields(tail * 10, 0x32, 10)
