"""`takhin consume --group`: a member that prints what the group gives it, and commits that."""

from __future__ import annotations

import json
import signal
import time

import pytest

from cli.records import put
from takhin.client import sync
from takhin.v1 import takhin_pb2 as pb


@pytest.fixture
def filled(broker, wide_topic) -> str:
    """A topic with four partitions of three records each."""
    for partition in range(4):
        put(broker, wide_topic, *(pb.Record(value=b"%d" % n) for n in range(3)), partition=partition)
    return wide_topic


def committed(takhin, group) -> dict[int, int]:
    described = json.loads(takhin.output("groups", "describe", group, "--json"))
    return {of["partition"]: of["committed_offset"] for of in described["offsets"]}


def test_a_group_is_read_on(takhin, broker, filled):
    """What is printed is committed, so the next call prints what is new; then the group is empty."""
    lines = takhin.output("consume", filled, "--group", "g").split()
    assert sorted(lines) == [b"0"] * 4 + [b"1"] * 4 + [b"2"] * 4
    assert committed(takhin, "g") == {0: 3, 1: 3, 2: 3, 3: 3}
    assert takhin.output("consume", filled, "-g", "g") == b""
    put(broker, filled, pb.Record(value=b"new"), partition=2)
    assert takhin.output("consume", "--pattern", filled, "-g", "g", "-f", "%p %v\n") == b"2 new\n"
    listed = json.loads(takhin.output("groups", "list", "--json"))
    assert [of for of in listed if of["group_id"] == "g"] == [
        {"group_id": "g", "state": "Empty", "member_count": 0, "lag": 0}
    ]
    takhin.output("groups", "delete", "g")


def test_so_many_records(takhin, filled):
    """-n commits what was printed and no more."""
    assert len(takhin.output("consume", filled, "-g", "n", "-n", 5).split()) == 5
    assert sum(committed(takhin, "n").values()) == 5
    assert len(takhin.output("consume", filled, "-g", "n").split()) == 7
    takhin.output("groups", "delete", "n")


def test_where_a_new_group_begins(takhin, filled):
    """-o says where to begin where nothing is committed, and nothing else."""
    assert takhin.output("consume", filled, "-g", "o", "-o", "-1").split() == [b"2"] * 4
    assert takhin.output("consume", filled, "-g", "o", "-o", "start") == b""
    takhin.output("groups", "delete", "o")


def test_following_until_a_signal(takhin, broker, filled):
    """SIGTERM ends it: what was printed is committed, and the member has left."""
    with takhin.start("consume", filled, "-g", "f", "--follow") as process:
        assert len([process.stdout.readline() for _ in range(12)]) == 12
        put(broker, filled, pb.Record(value=b"new"), partition=1)
        assert process.stdout.readline() == b"new\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
        assert process.stderr.read() == b""
    assert committed(takhin, "f") == {0: 3, 1: 4, 2: 3, 3: 3}
    assert json.loads(takhin.output("groups", "describe", "f", "--json"))["state"] == "Empty"
    takhin.output("groups", "delete", "f")


def test_following_a_topic_that_is_not_there_yet(takhin, broker):
    """The command says what it waits for, and reads the topic when it is made."""
    with takhin.start("consume", "later", "-g", "early", "--follow") as process:
        assert process.stderr.readline() == b"takhin: there is no topic 'later' yet; waiting for it\n"
        takhin.output("topics", "create", "later")
        put(broker, "later", pb.Record(value=b"first"))
        assert process.stdout.readline() == b"first\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    takhin.output("groups", "delete", "early")
    takhin.output("topics", "delete", "later", "--yes")


def test_two_commands_share(takhin, broker, filled):
    """The partitions of one that ends go to the other."""
    with takhin.start("consume", filled, "-g", "two", "--follow", "-f", "%p\n") as first:
        [first.stdout.readline() for _ in range(12)]
        with takhin.start("consume", filled, "-g", "two", "--follow", "-f", "%p\n") as second:
            owners(takhin, "two", 2)
            for partition in range(4):
                put(broker, filled, pb.Record(value=b"new"), partition=partition)
            theirs = {second.stdout.readline() for _ in range(2)}
            mine = {first.stdout.readline() for _ in range(2)}
            assert sorted(mine | theirs) == [b"0\n", b"1\n", b"2\n", b"3\n"]
            second.terminate()
            assert second.wait(20) == 143
        owners(takhin, "two", 1)
        for partition in range(4):
            put(broker, filled, pb.Record(value=b"new"), partition=partition)
        assert sorted(first.stdout.readline() for _ in range(4)) == [b"0\n", b"1\n", b"2\n", b"3\n"]
        first.terminate()
        assert first.wait(20) == 143
    takhin.output("groups", "delete", "two")


def test_a_member_without_a_partition(takhin, broker, topic):
    """Where another member has the only partition, the command says so and ends."""
    with sync.Consumer(broker.address, group_id="all", topics=[topic]) as consumer:
        assert consumer.poll(0.5) is None
        done = takhin("consume", topic, "-g", "all")
        assert (done.returncode, done.stdout) == (0, b"")
        assert done.stderr == b"takhin: group all gave this member no partition: others have them all\n"


def owners(takhin, group: str, count: int) -> None:
    """Wait until all partitions have owners, so many different ones, and the group is stable."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = json.loads(takhin.output("groups", "describe", group, "--json"))
        holding = [of for of in found["members"] if of["partitions"]]
        if found["state"] == "Stable" and len(holding) == count:
            return
    raise AssertionError(found)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["TOPIC", "-p", "1"], "the group says which partitions are read"),
        (["TOPIC", "-o", "5"], "where to begin if the group has committed nothing"),
        (["TOPIC", "-o", "start:end"], "where to begin if the group has committed nothing"),
        (["TOPIC", "--pattern", "x"], "topics or a pattern, not both"),
        (["nosuch"], "there is no topic 'nosuch'"),
        (["--pattern", "("], "not a regular expression"),
    ],
)
def test_refusals(takhin, wide_topic, args, sentence):
    """A refusal is one line, with exit code 1."""
    assert sentence in takhin.error(
        "consume", "-g", "r", *[wide_topic if of == "TOPIC" else of for of in args]
    )
