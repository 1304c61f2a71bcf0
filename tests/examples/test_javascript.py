"""The JavaScript example: a client with grpc-js and the .proto alone, against a real broker."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from blackbox.broker_process import Broker, environment
from blackbox.clients import CALL_S_MAX, connected, create_topic, eventually, produce
from takhin.v1 import takhin_pb2 as pb

EXAMPLE = Path(__file__).parents[2] / "examples" / "javascript"
NODE = shutil.which("node")
MODULES = [EXAMPLE / "node_modules" / "@grpc" / name for name in ("grpc-js", "proto-loader")]

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="node is not installed (scripts/install-packages tests)"),
    pytest.mark.skipif(
        not all(path.is_dir() for path in MODULES),
        reason="the modules are not installed (npm install --prefix examples/javascript)",
    ),
]


def run_example(address):
    return subprocess.run(
        [NODE, EXAMPLE / "orders.js"],
        env=environment(server=address),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def session(first):
    """The example's output if its first record is stored at that offset."""
    items = ["tea", "jam", "größer"]
    lines = [
        f'{first + n} customer-{n} {{"item":"{item}"}} source=javascript' for n, item in enumerate(items)
    ]
    begin, end = f"produced 3 records at offset {first}", f"group javascript continues at offset {first + 3}"
    return "\n".join([begin, *lines, end, ""])


def test_the_example(tmp_path):
    """The example creates the topic or uses it, and reads back what it produced; Python sees the same."""
    with Broker(tmp_path / "data") as broker:
        for first in (0, 3):
            done = run_example(broker.address)
            assert (done.stderr, done.stdout, done.returncode) == ("", session(first), 0)
        with connected(broker.address) as stub:
            request = pb.ConsumeMessagesRequest(topic="orders", offset=5, stop_offset=6)
            (record,) = (
                r for response in stub.ConsumeMessages(request, timeout=CALL_S_MAX) for r in response.records
            )
            committed = stub.GetCommittedOffsets(pb.GetCommittedOffsetsRequest(group_id="javascript"))
    assert (record.key, record.value) == (b"customer-2", '{"item":"größer"}'.encode())
    assert [(header.key, header.value) for header in record.headers] == [("source", b"javascript")]
    assert [offset.offset for offset in committed.offsets] == [6]


def test_a_broker_that_does_not_answer():
    """Without a broker the example fails and says so instead of waiting for ever."""
    done = run_example("127.0.0.1:1")
    assert done.returncode != 0
    assert "UNAVAILABLE" in done.stderr


class Sharing:
    """A process of member.js, whose lines are read as they come."""

    def __init__(self, address):
        self._process = subprocess.Popen(
            [NODE, EXAMPLE / "member.js", "shared", "javascript"],
            env=environment(server=address),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self, count):
        return [self._process.stdout.readline().rstrip() for _ in range(count)]

    def leave(self):
        self._process.terminate()
        rest, said = self._process.communicate(timeout=30)
        assert (said, self._process.returncode) == ("", 0)
        return rest.splitlines()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._process.kill()
        self._process.communicate()


def partitions_shared(stub, members):
    """True once so many members hold partitions, and the group is stable."""
    request = pb.DescribeConsumerGroupRequest(group_id="javascript")
    group = stub.DescribeConsumerGroup(request, timeout=CALL_S_MAX)
    return (
        group.state == "Stable"
        and [len(each.assignments) for each in group.members] == [4 // members] * members
    )


def produce_to_all(stub, round_number):
    for partition in range(4):
        produce(stub, "shared", [f"{round_number}-{partition}".encode()], partition=partition)


def test_members_share_a_topic(tmp_path):
    """Two members take two partitions each; one that is left alone takes all, where the other stopped."""
    with Broker(tmp_path / "data") as broker, connected(broker.address) as stub:
        create_topic(stub, "shared", 4)
        with Sharing(broker.address) as one, Sharing(broker.address) as other:
            assert one.lines(1) == other.lines(1) == ["joined javascript"]
            eventually(lambda: partitions_shared(stub, 2))
            produce_to_all(stub, 0)
            first = one.lines(2) + other.lines(2)
            assert sorted(first) == [f"{partition} 0 0-{partition}" for partition in range(4)]
            assert other.leave() == []
            eventually(lambda: partitions_shared(stub, 1))
            produce_to_all(stub, 1)
            assert sorted(one.lines(4)) == [f"{partition} 1 1-{partition}" for partition in range(4)]
            assert one.leave() == []
        committed = stub.GetCommittedOffsets(pb.GetCommittedOffsetsRequest(group_id="javascript"))
    assert [offset.offset for offset in committed.offsets] == [2] * 4
