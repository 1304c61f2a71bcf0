"""`takhin groups` and `takhin offsets`: the offsets that a group reads next, shown and set."""

from __future__ import annotations

import json

import pytest

from cli.records import put
from takhin.v1 import takhin_pb2 as pb

NOON_MS = 1_767_268_800_000


@pytest.fixture
def filled(broker, wide_topic) -> str:
    """A topic with four partitions, of 0, 1, 2 and 3 records, one per second from noon on."""
    for partition in range(1, 4):
        records = [pb.Record(value=b"v", timestamp=NOON_MS + 1_000 * n) for n in range(partition)]
        put(broker, wide_topic, *records, partition=partition)
    return wide_topic


def rows(takhin, *args) -> list[list[str]]:
    """The lines of a table below its titles."""
    return [line.split() for line in takhin.output(*args).decode().splitlines()[1:]]


def test_offsets(takhin, filled):
    """Both ends of each partition are shown, and the offset of a position between them."""
    assert rows(takhin, "offsets", "list", filled) == [[str(n), "0", str(n), str(n)] for n in range(4)]
    for place, expected in [
        ("start", "0000"),
        ("+1", "0111"),
        ("-1", "0012"),
        ("@2026-01-01T12:00:01Z", "0111"),
    ]:
        found = json.loads(takhin.output("offsets", "list", filled, "-o", place, "--json"))
        assert "".join(str(of["offset"]) for of in found) == expected, place
    assert rows(takhin, "offsets", "list", filled, "-p", 3, "-o", 2) == [["3", "0", "3", "2"]]


def test_a_group(takhin, filled):
    """A group's offset is set, listed, described with its lag, set again, read from, deleted."""
    said = takhin.output("offsets", "set", "billing", filled, "-o", "-1")
    assert said.endswith(f"group billing continues there in 4 partitions of {filled}\n".encode())
    assert rows(takhin, "groups", "list") == [["billing", "Empty", "0", "3"]]
    described = rows(takhin, "groups", "describe", "billing")
    assert [row[:5] for row in described] == [
        [filled, "0", "0", "0", "0"],
        [filled, "1", "0", "1", "1"],
        [filled, "2", "1", "2", "1"],
        [filled, "3", "2", "3", "1"],
    ]
    done = json.loads(takhin.output("offsets", "set", "billing", filled, "-p", 3, "-o", "start", "--json"))
    assert done == {"group_id": "billing", "topic": filled, "partitions": [{"partition": 3, "offset": 0}]}
    document = json.loads(takhin.output("groups", "describe", "billing", "--json"))
    assert (document["group_id"], document["state"]) == ("billing", "Empty")
    assert [of["lag"] for of in document["offsets"]] == [0, 1, 1, 3]
    assert json.loads(takhin.output("groups", "list", "--json")) == [
        {"group_id": "billing", "state": "Empty", "member_count": 0, "lag": 5}
    ]
    assert takhin.output("groups", "delete", "billing") == b"deleted group billing\n"
    assert rows(takhin, "groups", "list") == []


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["groups", "describe", "nosuch"], "nosuch"),
        (["groups", "delete", "nosuch"], "nosuch"),
        (["offsets", "list", "nosuch"], "there is no topic 'nosuch'"),
        (["offsets", "set", "g", "nosuch", "-o", "start"], "there is no topic 'nosuch'"),
        (["offsets", "set", "g", "TOPIC", "-o", "0:1"], "'0:1' is a range; give a single position here"),
        (["offsets", "set", "g", "TOPIC", "-o", "x"], "'x' is not a position in a log"),
        (["offsets", "set", "g", "TOPIC", "-o", "99"], "99"),
        (["offsets", "set", "g", "TOPIC"], "Missing option '-o'"),
        (["offsets", "list", "TOPIC", "-p", "4"], "has partitions 0 to 3, not 4"),
        (["offsets", "set", "", "TOPIC", "-o", "start"], "group"),
    ],
)
def test_refusals(takhin, wide_topic, args, sentence):
    """A refusal is one line, with exit code 1, and creates no group."""
    assert sentence in takhin.error(*[wide_topic if arg == "TOPIC" else arg for arg in args])
    assert rows(takhin, "groups", "list") == []
