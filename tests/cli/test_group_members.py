"""`takhin groups` for groups with members: who reads what; what moves or deletes their offsets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cli.records import put
from takhin.client import sync
from takhin.v1 import takhin_pb2 as pb

NOON_MS = 1_767_268_800_000


@pytest.fixture
def filled(broker, wide_topic) -> str:
    """A topic with four partitions of four records, one per second from noon on."""
    for partition in range(4):
        records = [pb.Record(value=b"v", timestamp=NOON_MS + 1_000 * n) for n in range(4)]
        put(broker, wide_topic, *records, partition=partition)
    return wide_topic


@pytest.fixture
def group(broker, filled) -> Iterator[str]:
    """A group that has committed offset 2 in all partitions but the last one."""
    with sync.Admin(broker.address) as admin:
        admin.commit_offsets(filled, {(filled, partition): 2 for partition in range(3)})
        yield filled
        if admin.committed_offsets(filled):
            admin.delete_group(filled)


@contextmanager
def member(broker, group, topic, count, **options) -> Iterator[sync.Consumer]:
    """A member that has read so many records, and commits nothing before it ends."""
    options = {"group_id": group, "topics": [topic], "commit_interval_ms": 600_000} | options
    with sync.Consumer(broker.address, **options) as consumer:
        for _ in range(count):
            next(consumer)
        yield consumer


def described(takhin, group):
    return json.loads(takhin.output("groups", "describe", group, "--json"))


def offsets(broker, group) -> list[int | None]:
    """What the group has committed in each of four partitions."""
    with sync.Admin(broker.address) as admin:
        found = {at.partition: of.offset for at, of in admin.committed_offsets(group).items()}
    return [found.get(partition) for partition in range(4)]


def moves(takhin, *args) -> list[tuple[int, int | None, int]]:
    """Partition, before and after of a `seek`."""
    found = json.loads(takhin.output("groups", "seek", *args, "--json"))
    return [(of["partition"], of["before"], of["after"]) for of in found["partitions"]]


def test_who_reads_what(takhin, broker, group):
    """Members with their states, the owner and the lag of each partition, also where nothing is committed."""
    with member(broker, group, group, 10, client_id="billing", instance_id="b-1", keep_for_restart=False):
        found = described(takhin, group)
        assert (found["state"], found["assignor"]) == ("Stable", "uniform")
        (one,) = found["members"]
        assert (one["client_id"], one["instance_id"], one["state"]) == ("billing", "b-1", "Stable")
        assert [of["partition"] for of in one["partitions"]] == [0, 1, 2, 3]
        assert {of["member_id"] for of in found["offsets"]} == {one["member_id"]}
        text = takhin.output("groups", "describe", group).decode()
        assert text.count("b-1") == 5
        lines = [line.split() for line in text.splitlines()]
        assert [line[:5] for line in lines[1:5]] == [
            *([group, str(partition), "2", "4", "2"] for partition in range(3)),
            [group, "3", "-", "4", "4"],
        ]
        assert lines[-1][0] == "Stable,"
        (listed,) = [
            of for of in json.loads(takhin.output("groups", "list", "--json")) if of["group_id"] == group
        ]
        assert (listed["state"], listed["member_count"], listed["lag"]) == ("Stable", 1, 10)


def test_watching(takhin, broker, group):
    """--watch shows it again and again as it moves, until a signal."""
    with takhin.start("groups", "describe", group, "--watch", "--json") as process:
        assert json.loads(process.stdout.readline())["members"] == []
        with member(broker, group, group, 1):
            deadline = time.monotonic() + 20
            while not json.loads(process.stdout.readline())["members"]:
                assert time.monotonic() < deadline
        process.terminate()
        assert process.wait(20) == 143


def test_a_dry_run_moves_nothing(takhin, broker, group):
    """Without --yes what would be is shown beside what is, for every kind of position."""
    for place, after in [
        ("earliest", [0] * 3),
        ("latest", [4] * 3),
        ("-1", [3] * 3),
        ("+1", [1] * 3),
        ("@2026-01-01T12:00:02Z", [2] * 3),
    ]:
        assert moves(takhin, group, "--to", place) == [(n, 2, after[n]) for n in range(3)], place
    assert moves(takhin, group, "--to", "3", "--topic", f"{group}:3") == [(3, None, 3)]
    assert moves(takhin, group, "--to", "latest", "--topic", group)[3] == (3, None, 4)
    text = takhin.output("groups", "seek", group, "--to", "latest").decode()
    assert text.splitlines()[1].split() == [group, "0", "2", "4", "+2"]
    assert text.endswith(f"nothing was done; --yes moves 3 partitions of group {group}\n")
    assert offsets(broker, group) == [2, 2, 2, None]


def test_seek(takhin, broker, group):
    """With --yes it is done; another group's offsets are taken where that has some."""
    takhin.output("groups", "seek", group, "--to", "earliest", "--yes")
    takhin.output("groups", "seek", group, "--to", "4", "--topic", f"{group}:1", "--yes")
    assert offsets(broker, group) == [0, 4, 0, None]
    said = takhin.output("groups", "seek", "copy", "--to", f"group:{group}", "--topic", group, "--yes")
    assert said.endswith(b"moved 3 partitions of group copy\n")
    assert offsets(broker, "copy") == [0, 4, 0, None]
    takhin.output("groups", "delete-offsets", "copy", group)
    assert "copy" in takhin.error("groups", "describe", "copy")


@pytest.mark.parametrize(
    "args",
    [
        ["seek", "GROUP", "--to", "latest", "--yes"],
        ["delete", "GROUP"],
        ["delete-offsets", "GROUP", "GROUP"],
    ],
)
def test_members_keep_their_group(takhin, broker, group, args):
    """What would pull the ground from under members is refused; a dry run and --force are not."""
    args = [group if of == "GROUP" else of for of in args]
    with member(broker, group, group, 10) as living:
        assert "--force" in takhin.error("groups", *args)
        assert "--force" in takhin.error("offsets", "set", group, group, "-o", "end")
        assert offsets(broker, group) == [2, 2, 2, None]
        assert moves(takhin, group, "--to", "earliest")
        takhin.output("groups", *args, "--force")
        if args[0] == "seek":
            assert offsets(broker, group) == [4, 4, 4, None]
            assert [next(living).partition for _ in range(4)] == [3] * 4
        else:
            assert {(of.partition, of.offset) for of in (next(living) for _ in range(16))} == {
                (partition, offset) for partition in range(4) for offset in range(4)
            }


@pytest.mark.parametrize("force", [["--yes", "--force"], []], ids=["done", "shown"])
def test_a_group_that_has_committed_nothing(takhin, broker, filled, force):
    """A group that has members and no commit is not said to be missing: it is asked where to move it."""
    with member(broker, "busy", filled, 1):
        line = takhin.error("groups", "seek", "busy", "--to", "earliest", *force)
        assert line == "group busy has committed nothing; give --topic to say where to move it"
        assert "has 1 member;" in takhin.error("groups", "delete", "busy")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["seek", "nosuch", "--to", "latest"], "there is no consumer group 'nosuch'"),
        (["seek", "GROUP", "--to", "2"], "give --topic TOPIC:PARTITION"),
        (["seek", "GROUP", "--to", "9", "--topic", "GROUP:0"], "offset 9 is outside"),
        (["seek", "GROUP", "--to", "x"], "is not a position"),
        (["seek", "GROUP", "--to", "latest", "--topic", "nosuch"], "there is no topic 'nosuch'"),
        (["seek", "GROUP", "--to", "latest", "--topic", "GROUP:7"], "has partitions 0 to 3, not 7"),
        (["seek", "GROUP", "--to", "latest", "--topic", "GROUP:x"], "give TOPIC or TOPIC:PARTITION"),
        (["seek", "GROUP", "--to", "group:nosuch"], "group nosuch has committed nothing"),
        (["seek", "GROUP"], "Missing option '--to'"),
        (["delete-offsets", "GROUP"], "Missing argument"),
        (["delete-offsets", "nosuch", "GROUP"], "nosuch"),
        (["delete-offsets", "GROUP", "nosuch"], "there is no topic 'nosuch'"),
    ],
)
def test_refusals(takhin, broker, group, args, sentence):
    """A refusal is one line, with exit code 1, and moves nothing."""
    assert sentence in takhin.error("groups", *[of.replace("GROUP", group) for of in args])
    assert offsets(broker, group) == [2, 2, 2, None]
