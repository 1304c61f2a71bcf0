"""`takhin produce` against a broker: bytes kept, keys placed, promptness, and exact counts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

import pytest

import forked
from blackbox.broker_process import Broker, command
from blackbox.clients import connected, end_offset
from cli.records import put, without_waits
from takhin.partitioner import partition_for_key
from takhin.v1 import takhin_pb2 as pb

NOT_ANSWERED = "0 records produced, 2 more may or may not be"
COUNTS = re.compile(r"; (\d+) records? produced(?:, (\d+) more may or may not be)?$")


def consumed(takhin, topic, *options):
    """The records of a topic as `takhin consume` prints them."""
    return [json.loads(line) for line in takhin.output("consume", topic, "--json", *options).splitlines()]


def record_count(takhin, topic) -> int:
    """The end offset of a topic with one partition."""
    with connected(takhin.address) as stub:
        return end_offset(stub, topic)


def counts(line: str) -> tuple[int, int]:
    """(records reported as produced, records of unknown outcome) at the end of an error line."""
    match = COUNTS.search(line)
    assert match, line
    return int(match[1]), int(match[2] or 0)


def test_bytes_are_kept(takhin, topic):
    """All bytes but newlines are kept: empty lines, carriage returns, a last line without newline."""
    text = b"plain\n\r\n\n\xff\x00\n\xc3\xa9\nlast"
    done = takhin("produce", topic, stdin=text)
    assert re.fullmatch(rf"produced 6 records to {topic} \(\d+\.\d\d s\)\n", done.stderr.decode())
    assert (done.returncode, done.stdout) == (0, b"")
    assert takhin.output("consume", topic) == text + b"\n"
    assert {record["key"] for record in consumed(takhin, topic)} == {None}


def test_compressed_on_the_way(takhin, topic):
    """--compression of both commands changes nothing but what travels, for a member of a group, too."""
    text = b"".join(b"line %d of very many lines\n" % number for number in range(5_000))
    takhin.output("produce", topic, "--compression", "zstd", stdin=text)
    for options in ((), ("--group", topic)):
        assert takhin.output("consume", topic, "--compression", "zstd", *options) == text
    assert b"'lz4' is not 'zstd'" in takhin("consume", topic, "--compression", "lz4").stderr


def test_nothing_to_produce(takhin, topic):
    """An empty stdin is not an error, but an unknown topic is one, even then."""
    assert b"produced 0 records" in takhin("produce", topic).stderr
    assert takhin.error("produce", "nosuch") == "there is no topic 'nosuch'"


def test_many_lines(takhin, topic):
    """More lines than fit into all batches under way arrive once each and in order."""
    text = b"".join(b"%d\n" % number for number in range(100_000))
    done = takhin("produce", topic, stdin=text)
    assert b"produced 100000 records" in done.stderr
    assert takhin.output("consume", topic) == text


def test_lines_larger_than_a_read(takhin, topic):
    """Records of 700 KB, which are larger than a read, arrive between small ones."""
    lines = [b"a" * 700_000, b"b", b"c" * 700_000, b"", b"d" * 700_000]
    takhin.output("produce", topic, stdin=b"\n".join(lines))
    assert takhin.output("consume", topic).split(b"\n")[:-1] == lines


def test_keys_decide_the_partition(takhin, wide_topic):
    """Every key's records are in the partition of Kafka's hash, in order, and no record is lost."""
    keys = [f"key-{number % 37}" for number in range(3_000)]
    lines = [f"{key}:{number}:x" for number, key in enumerate(keys)]
    takhin.output("produce", wide_topic, "--key-separator", ":", stdin="\n".join(lines).encode())
    records = consumed(takhin, wide_topic)
    assert all(record["partition"] == partition_for_key(record["key"].encode(), 4) for record in records)
    by_key = {key: [line.partition(":")[2] for line in lines if line.startswith(f"{key}:")] for key in keys}
    assert {key: [record["value"] for record in records if record["key"] == key] for key in by_key} == by_key


def test_a_named_partition_takes_all(takhin, wide_topic):
    """With --partition keys are kept but do not choose the partition."""
    takhin.output("produce", wide_topic, "--partition", 3, "--key-separator", "=", stdin=b"a=1\nb=2\n=3\n")
    records = consumed(takhin, wide_topic)
    assert [(r["partition"], r["key"], r["value"]) for r in records] == [
        (3, "a", "1"),
        (3, "b", "2"),
        (3, "", "3"),
    ]


def test_a_line_without_separator(takhin, topic):
    """A bad line ends the input and is named; the records counted as produced are stored."""
    text = b"a:1\n" * 2_500 + b"oops\n" + b"a:1\n" * 2_500
    line = takhin.error("produce", topic, "--key-separator", ":", stdin=text)
    assert line == "line 2501: it has no ':'; 2500 records produced"
    assert record_count(takhin, topic) == 2_500


def test_a_refused_record(takhin):
    """The error names the line that the broker refused and counts the records that were stored."""
    takhin.output("topics", "create", "small", "--config", "max.message.bytes=100")
    text = b"ok\n" * 1_500 + b"x" * 101 + b"\n" + b"ok\n" * 5_000
    line = takhin.error("produce", "small", stdin=text)
    assert line.startswith("line 1501: the record has 101 bytes")
    produced, unknown = counts(line)
    assert (produced, unknown) == (record_count(takhin, "small"), 0)
    assert produced == 1_500
    takhin.output("topics", "delete", "small")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--partition", "1"], "has partitions 0 to 0, not 1"),
        (["--partition", "-1"], "is not in the range"),
        (["--key-separator", ""], "must not be empty"),
        (["--key", "a", "--key-separator", ":"], "use either --key or --key-separator, not both"),
        (["--json", "--key", "a"], "with --json, keys, values and headers come from the lines"),
        (["--keep-partitions"], "--keep-partitions needs --json, and no --partition"),
        (["-H", "a"], "'a' is not KEY=VALUE"),
        (["-H", "=a"], "'=a' is not KEY=VALUE"),
        (["--timeout", "0"], "is not in the range"),
    ],
)
def test_refusals(takhin, topic, options, sentence):
    """A refusal is one line, with exit code 1, and nothing is produced."""
    assert sentence in takhin.error("produce", topic, *options, stdin=b"a\n")
    assert record_count(takhin, topic) == 0


def test_a_refusal_leaves_no_call_behind(takhin, topic):
    """gRPC's call is gone when main() returns: collected later, it could keep the process from ending."""
    script = (
        "import gc; gc.disable()\n"
        "from grpc._channel import _Rendezvous\n"
        "from takhin.cli.main import main\n"
        f"print(main(['produce', '{topic}', '--partition', '1']))\n"
        "print([one for one in gc.get_objects() if isinstance(one, _Rendezvous)])\n"
    )
    done = takhin.run([sys.executable, "-c", script], b"a\n")
    assert (done.stdout, done.returncode) == (b"1\n[]\n", 0), done.stderr.decode()


@pytest.mark.timed
def test_a_lone_line_does_not_wait(takhin, topic):
    """A line from a slow pipe is on disk and reaches a reader in less than 50 ms (best of ten)."""
    with (
        takhin.start("consume", topic, "--follow") as reader,
        takhin.start("produce", topic) as writer,
    ):
        waits = []
        for number in range(10):
            line = b"line %d\n" % number
            began = time.monotonic()
            writer.stdin.write(line)
            writer.stdin.flush()
            assert reader.stdout.readline() == line
            waits.append(time.monotonic() - began)
        _, said = writer.communicate(timeout=20)
        assert writer.returncode == 0
        assert b"produced 10 records" in said
    assert min(waits) < 0.05, waits


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_says_what_was_produced(takhin, topic, number):
    """After a signal it exits with the shell's code and a true count, even if answers are missing."""
    with (
        takhin.start("consume", topic, "--follow") as reader,
        takhin.start("produce", topic) as writer,
    ):
        writer.stdin.write(b"one\ntwo\n")
        writer.stdin.flush()
        assert [reader.stdout.readline() for _ in range(2)] == [b"one\n", b"two\n"]
        for process, sentences in (
            (writer, {"interrupted: 2 records produced\n", f"interrupted: {NOT_ANSWERED}\n"}),
            (reader, {""}),
        ):
            process.send_signal(number)
            _, said = process.communicate(timeout=20)
            assert process.returncode == 128 + number, said
            assert said.decode() in sentences


def pour(descriptor: int) -> None:
    """Write lines to a pipe until nobody reads from it."""
    with suppress(BrokenPipeError):
        while True:
            os.write(descriptor, b"y\n" * 10_000)


def test_a_killed_broker_leaves_an_honest_count(takhin, tmp_path):
    """After SIGKILL of the broker: acknowledged <= on disk <= acknowledged + unknown."""
    with Broker(tmp_path / "data") as broker:
        takhin = takhin.to(broker)
        takhin.output("topics", "create", "flow")
        with (
            takhin.start("consume", "flow", "--follow") as reader,
            takhin.start("produce", "flow", "--timeout", 2) as writer,
        ):
            source = threading.Thread(target=pour, args=[writer.stdin.fileno()], daemon=True)
            source.start()
            for _ in range(20_000):  # until lines flow
                assert reader.stdout.readline() == b"y\n"
            broker.kill()
            (line,) = without_waits(writer.stderr.read())
            assert writer.wait(20) == 1
            source.join(20)
        produced, unknown = counts(line)
    with Broker(tmp_path / "data") as broker:
        assert produced <= record_count(takhin.to(broker), "flow") <= produced + unknown
    assert produced > 0


def test_it_waits_for_a_broker_from_the_start(takhin, tmp_path):
    """Lines wait for a broker that is not there yet, and stderr says so."""
    with Broker(tmp_path / "data") as broker:
        address = broker.address
        takhin.to(broker).output("topics", "create", "t")
    takhin = takhin.to(broker)
    with takhin.start("produce", "t", "--timeout", "30") as writer:
        writer.stdin.write(b"late\n")
        writer.stdin.close()
        assert writer.stderr.readline() == f"takhin: still waiting: no broker answers at {address}\n".encode()
        with Broker(tmp_path / "data", listen=address):
            assert writer.wait(20) == 0
            assert takhin.output("consume", "t") == b"late\n"
        (line,) = without_waits(writer.stderr.read())
        assert line.startswith("produced 1 record to t")


def test_it_does_not_wait_for_what_does_not_heal(takhin, topic):
    """With settings that cannot be right, the command fails at once and says why."""
    began = time.monotonic()
    line = takhin.error("produce", topic, "--tls", "--timeout", "60", stdin=b"a\n")
    assert "it does not take TLS, which this client was told to use" in line
    assert time.monotonic() - began < 10


def test_it_rides_out_restarts(takhin, tmp_path):
    """The broker is killed three times while lines flow, and every line is stored once, in order."""
    lines = b"".join(b"%d\n" % number for number in range(300_000))
    with ExitStack() as stack:
        broker = stack.enter_context(Broker(tmp_path / "data"))
        takhin, address = takhin.to(broker), broker.address
        takhin.output("topics", "create", "t")
        writer = stack.enter_context(takhin.start("produce", "t"))
        source = threading.Thread(target=feed, args=[writer.stdin, lines], daemon=True)
        source.start()
        for number in range(1, 4):
            takhin.output("consume", "t", "--follow", "-n", 50_000 * number)  # lines flow
            broker.kill()
            broker = stack.enter_context(Broker(tmp_path / "data", listen=address))
        source.join(60)
        (line,) = without_waits(writer.stderr.read())
        assert writer.wait(20) == 0, line
        assert line.startswith("produced 300000 records to t")
        assert takhin.output("consume", "t") == lines


def feed(pipe, text: bytes) -> None:
    with pipe:
        pipe.write(text)


def test_a_file(takhin, topic, tmp_path):
    """A file is read instead of stdin; the error for a missing one names it."""
    (tmp_path / "lines").write_bytes(b"a\nb\n")
    takhin.output("produce", topic, tmp_path / "lines", "-k", "key", "-H", "h=1", "-H", "h=2")
    assert [(of["key"], of["value"], of["headers"]) for of in consumed(takhin, topic)] == [
        ("key", value, [{"key": "h", "value": "1"}, {"key": "h", "value": "2"}]) for value in "ab"
    ]
    missing = tmp_path / "nosuch"
    assert takhin.error("produce", topic, missing) == f"cannot read {missing}: No such file or directory"


def test_a_topic_goes_out_and_in_again(takhin, broker, wide_topic):
    """--json reads what --json printed: keys, values, headers, timestamps; binary, empty and absent."""
    headers = [pb.RecordHeader(key="h", value=b"\xff"), pb.RecordHeader(key="h", value=b"")]
    records = [
        pb.Record(key=b"\xff", value="ü\n".encode(), headers=headers, timestamp=1),
        pb.Record(key=b"", value=b"", timestamp=1_700_000_000_000),
        pb.Record(timestamp=2),
    ]
    put(broker, wide_topic, *records, partition=2)
    put(broker, wide_topic, pb.Record(value=b"x", timestamp=3), partition=0)
    exported = takhin.output("consume", wide_topic, "--json")
    topic = f"{wide_topic}-again"
    takhin.output("topics", "create", topic)
    takhin.output("produce", topic, "--json", stdin=exported)
    fields = ("key", "value", "headers", "timestamp")
    assert [[of[field] for field in fields] for of in consumed(takhin, topic)] == [
        [of[field] for field in fields] for of in map(json.loads, exported.splitlines())
    ]
    takhin.output("topics", "delete", topic)
    takhin.output("produce", wide_topic, "--json", "--keep-partitions", stdin=exported)
    places = [(of["partition"], of["offset"]) for of in consumed(takhin, wide_topic)]
    assert places == [(0, 0), (0, 1), *((2, offset) for offset in range(6))]


def test_an_input_that_breaks_off(takhin, topic):
    """If reading fails, what was read is sent, the command says how much that is, and exits with 1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        source = socket.create_connection(listener.getsockname())
        stdin, _ = listener.accept()
    with (
        takhin.start("consume", topic, "--follow") as reader,
        stdin,
        forked.Popen(
            command("produce", topic), stdin=stdin, stderr=subprocess.PIPE, env=takhin.environ()
        ) as writer,
    ):
        source.sendall(b"one\ntwo\nthr")
        assert [reader.stdout.readline() for _ in range(2)] == [b"one\n", b"two\n"]
        source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        source.close()  # with a reset
        assert writer.stderr.read() == (
            b"takhin: cannot read the input: Connection reset by peer; 2 records produced\n"
        )
        assert writer.wait(20) == 1


def test_a_line_that_is_no_record(takhin, topic):
    """The error names a bad line and its fault; the lines before it are produced."""
    text = b'{"value": "v"}\n{"valeu": "v"}\n'
    line = takhin.error("produce", topic, "--json", stdin=text)
    assert line.startswith("line 2: it has an unknown field 'valeu'; the fields are topic, partition")
    assert counts(line) == (1, 0)
