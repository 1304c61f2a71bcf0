"""Commands about a topic of which the broker does not serve one partition: they say so, and do the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import connected, produce
from blackbox.foreign_lock import ForeignLock
from cli.conftest import Takhin
from cli.records import put
from takhin.v1 import takhin_pb2 as pb

PAGE = 16_384


@pytest.fixture(scope="module")
def folder(tmp_path_factory, takhin) -> Path:
    """A stopped broker's folder: topic `t` has ten records in each of three partitions, topic `u` has one."""
    folder = tmp_path_factory.mktemp("unserved") / "data"
    with Broker(folder) as broker:
        takhin.to(broker).output("topics", "create", "t", "--partitions", 3)
        takhin.to(broker).output("topics", "create", "u")
        for partition in range(3):
            records = [pb.Record(value=b"%d-%d" % (partition, n)) for n in range(10)]
            put(broker, "t", *records, partition=partition)
    return folder


def wrecked(path: Path) -> bytes:
    """Overwrite a file's first page; what it was before."""
    whole = path.read_bytes()
    path.write_bytes(bytes(PAGE) + whole[PAGE:])
    return whole


@pytest.fixture(scope="module")
def maimed(folder, takhin, tmp_path_factory) -> Iterator[Takhin]:
    """The command against a broker that does not serve partition 1."""
    folder = copytree(folder, tmp_path_factory.mktemp("maimed") / "data")
    wrecked(folder / "topics/t/1.db")
    with Broker(folder, consume_heartbeat_ms=100) as broker:
        yield takhin.to(broker)


def assert_named(said: bytes) -> None:
    (line,) = said.decode().splitlines()
    assert line.startswith("takhin: topic 't' partition 1 is not served: ")


@pytest.mark.parametrize("options", [[], ["-o", "-99"], ["-o", "start:end"], ["-o", "@1970-01-02"]])
def test_consume_reads_the_others(maimed, options):
    """The records of the others are printed, the missing partition is named, and the exit code is 1."""
    done = maimed("consume", "t", "u", *options)
    assert done.stdout.decode().split() == [f"{partition}-{n}" for partition in (0, 2) for n in range(10)]
    assert_named(done.stderr)
    assert done.returncode == 1


@pytest.mark.parametrize("options", [[], ["--follow"], ["-o", "end"], ["-o", "0:10"]])
def test_consume_of_that_one_alone(maimed, options):
    """Where nothing else is asked for, the command ends at once, with the reason."""
    done = maimed("consume", "t", "-p", 1, *options)
    assert (done.returncode, done.stdout) == (1, b"")
    assert_named(done.stderr)


def test_follow_names_it_at_once(maimed):
    """With --follow the partition is named before the first record, and the exit code is 1 in the end."""
    with maimed.start("consume", "t", "--follow", "-n", 20) as reader:
        assert_named(reader.stderr.readline())
        printed, _ = reader.communicate(timeout=20)
    assert len(printed.split()) == 20
    assert reader.returncode == 1


def test_it_is_shown(maimed):
    """`topics` says which partition it is and why, and claims no offsets and no number of records."""
    shown = maimed.output("topics", "describe", "t").decode().splitlines()
    assert shown[2].split()[:4] == ["0", "0", "10", "10"]
    unserved = shown[3].split()
    assert (unserved[:4], unserved[-2:]) == (["1", "?", "?", "?"], ["?", "?"])
    assert shown[5].startswith("topic 't' partition 1 is not served: ")
    (document,) = json.loads(maimed.output("topics", "describe", "t", "--json"))
    reasons = [of["unavailable_reason"] for of in document["partitions"]]
    assert reasons == ["", shown[5], ""]
    listed = [line.split()[:3] for line in maimed.output("topics", "list").decode().splitlines()]
    assert listed[1:] == [["t", "3", "?"], ["u", "1", "0"]]


def test_offsets_leave_it_out(maimed):
    """`offsets list` has the others; `offsets set` does nothing, since it cannot do all."""
    done = maimed("offsets", "list", "t")
    assert [line.split()[0] for line in done.stdout.decode().splitlines()[1:]] == ["0", "2"]
    assert_named(done.stderr)
    assert done.returncode == 1
    assert "partition 1 is not served" in maimed.error("offsets", "set", "g", "t", "-o", "end")
    assert "there is no consumer group 'g'" in maimed.error("groups", "describe", "g")


def test_trim_does_the_rest(folder, takhin, tmp_path):
    """The others are trimmed, what was removed is told, the missing one is named, and the exit code is 1."""
    folder = copytree(folder, tmp_path / "data")
    wrecked(folder / "topics/t/1.db")
    with Broker(folder) as broker:
        takhin = takhin.to(broker)
        done = takhin("topics", "trim", "t", "--before", "+4")
        assert [line.split() for line in done.stdout.decode().splitlines()] == [
            ["partition", "beginning", "end", "removed"],
            ["0", "4", "10", "4"],
            ["2", "4", "10", "4"],
            ["removed", "8", "records", "of", "t"],
        ]
        assert_named(done.stderr)
        assert done.returncode == 1
        alone = takhin("topics", "trim", "t", "--before", "+4", "-p", 1, "--json")
        assert (alone.returncode, json.loads(alone.stdout)) == (1, [])
        assert_named(alone.stderr)


def test_trim_goes_past_what_fails(folder, takhin, tmp_path):
    """What was trimmed is told although another partition failed meanwhile, which is named."""
    folder = copytree(folder, tmp_path / "data")
    with (
        Broker(folder, storage_busy_wait_ms_max=100) as broker,
        ForeignLock(broker.partition_file("t", 1)),
    ):
        done = takhin.to(broker)("topics", "trim", "t", "--before", "end")
    assert [line.split() for line in done.stdout.decode().splitlines()] == [
        ["partition", "beginning", "end", "removed"],
        ["0", "10", "10", "10"],
        ["2", "10", "10", "10"],
        ["removed", "20", "records", "of", "t"],
    ]
    (said,) = done.stderr.decode().splitlines()
    assert "topic 't' partition 1" in said
    assert done.returncode == 1


def test_configs_that_nobody_knows(takhin, tmp_path):
    """Where partition 0, which says what the topic is, is not served, no default is taken for its configs."""
    with Broker(tmp_path / "data") as broker:
        configs = ("--config", "retention.ms=100000", "--config", "read.only=true")
        takhin.to(broker).output("topics", "create", "t", "--partitions", 2, *configs)
        takhin.to(broker).output("topics", "create", "u")
    wrecked(tmp_path / "data/topics/t/0.db")
    with Broker(tmp_path / "data") as broker, connected(broker.address) as stub:
        takhin = takhin.to(broker)
        said = "topic 't' partition 0 is not served: "
        for call in (
            lambda: stub.DescribeTopicConfigs(pb.DescribeTopicConfigsRequest(name="t")),
            lambda: stub.CompactTopic(pb.CompactTopicRequest(name="t")),  # no default says compact
            lambda: produce(stub, "t", [bytes(1 << 21)], partition=0),  # by default this is too large
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert refused.value.details().startswith(said)
        assert not stub.GetTopic(pb.GetTopicRequest(name="t")).topic.configs
        head, *rest = takhin.output("topics", "describe", "t", "--configs").decode().splitlines()
        assert head.endswith("  configs=?")
        assert rest[0].split()[0] == "partition"
        assert [line for line in rest if line.startswith(said)]
        t, u = json.loads(takhin.output("topics", "describe", "t", "u", "--configs", "--json"))
        assert t["configs"] == []
        assert u["configs"][0]["name"] == "max.message.bytes"


@pytest.mark.parametrize("damaged", [0, 1])
def test_produce_says_what_it_waits_for(folder, takhin, tmp_path, damaged):
    """A person sees after some seconds why nothing goes on; once the file is whole, the record is stored."""
    folder = copytree(folder, tmp_path / "data")
    path = folder / f"topics/t/{damaged}.db"
    whole = wrecked(path)
    with Broker(folder) as broker:
        takhin = takhin.to(broker)
        with takhin.start("produce", "t", "-p", 1) as writer:
            writer.stdin.write(b"one\n")
            writer.stdin.close()
            writer.stdin = None
            said = writer.stderr.readline().decode()
            assert said.startswith("takhin: still waiting: topic 't' partition 1 is not served: ")
            assert str(path) in said
            path.write_bytes(whole)
            _, said = writer.communicate(timeout=60)
        assert said.startswith(b"produced 1 record to t")
        assert writer.returncode == 0
        assert takhin.output("consume", "t", "-p", 1, "-o", "-1") == b"one\n"
