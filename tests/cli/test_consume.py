"""`takhin consume` against a broker: where it begins and ends, what it prints, and closed pipes."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from queue import Queue

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbox.broker_process import Broker, command
from blackbox.clients import connected, create_topic
from takhin.cli import produce
from takhin.cli.consume import EPOCH, Start, parse_start
from takhin.cli.produce import _Form, _Producer
from takhin.v1 import takhin_pb2 as pb

NOON_MS = 1_767_268_800_000  # 2026-01-01T12:00Z


def put(broker, topic, *records: pb.Record, partition: int = 0) -> None:
    """Produce records as they are, which lines of text cannot be."""
    with connected(broker.address) as stub:
        request = pb.ProduceMessageRequest(topic=topic, partition=partition, records=records)
        assert stub.ProduceMessage(request, timeout=10).error == ""


def values(takhin, topic, *options) -> list[bytes]:
    return takhin.output("consume", topic, "--format", "value", *options).split(b"\n")[:-1]


def test_json(takhin, broker, topic):
    """Text where it is UTF-8, base64 where it is not, null where there is none; headers in order."""
    headers = [pb.RecordHeader(key="h", value=b"1"), pb.RecordHeader(key="h", value=b"\xff")]
    put(
        broker,
        topic,
        pb.Record(key="é".encode(), value=b'{"a": "\x00"}', timestamp=NOON_MS, headers=headers),
        pb.Record(key=b"", value=b"\xff", timestamp=NOON_MS + 1),
        pb.Record(timestamp=NOON_MS + 2),
    )
    lines = takhin.output("consume", topic).splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "topic": topic,
            "partition": 0,
            "offset": 0,
            "timestamp": NOON_MS,
            "key": "é",
            "value": '{"a": "\x00"}',
            "headers": [{"key": "h", "value": "1"}, {"key": "h", "value": {"base64": "/w=="}}],
        },
        {
            "topic": topic,
            "partition": 0,
            "offset": 1,
            "timestamp": NOON_MS + 1,
            "key": "",
            "value": {"base64": "/w=="},
            "headers": [],
        },
        {
            "topic": topic,
            "partition": 0,
            "offset": 2,
            "timestamp": NOON_MS + 2,
            "key": None,
            "value": None,
            "headers": [],
        },
    ]


def test_values(takhin, broker, topic):
    """The bytes as they are and a newline; a record without a value is an empty line."""
    put(broker, topic, pb.Record(value=b"\xff\r"), pb.Record(), pb.Record(value=b"a\nb"))
    assert takhin.output("consume", topic, "--format", "value") == b"\xff\r\n\na\nb\n"


def test_where_it_begins(takhin, broker, topic):
    """Earliest by default, latest, an offset, and times with and without a zone."""
    put(broker, topic, *[pb.Record(value=b"%d" % n, timestamp=NOON_MS + n) for n in range(5)])
    everything = [b"0", b"1", b"2", b"3", b"4"]
    local = datetime.fromtimestamp((NOON_MS + 3) / 1_000).isoformat(timespec="milliseconds")  # noqa: DTZ006
    for start, expected in [
        ("earliest", everything),
        ("latest", []),
        ("0", everything),
        ("3", [b"3", b"4"]),
        ("5", []),
        ("2026-01-01T12:00:00.002Z", [b"2", b"3", b"4"]),
        ("2026-01-01T13:00:00.002001+01:00", [b"3", b"4"]),
        (local, [b"3", b"4"]),
        ("1960-01-01", everything),
        ("2100-01-01", []),
    ]:
        assert values(takhin, topic, "--from", start) == expected, start
    assert values(takhin, topic) == everything


def test_all_partitions(takhin, wide_topic):
    """One after the other unless one is named; an offset needs one to be named."""
    for partition in (2, 0, 3):
        takhin.output(
            "produce", wide_topic, "--partition", partition, stdin=b"%d-0\n%d-1\n" % (partition, partition)
        )
    assert values(takhin, wide_topic) == [b"0-0", b"0-1", b"2-0", b"2-1", b"3-0", b"3-1"]
    assert values(takhin, wide_topic, "--max-records", 3) == [b"0-0", b"0-1", b"2-0"]
    assert values(takhin, wide_topic, "--partition", 2, "--from", 1) == [b"2-1"]
    assert values(takhin, wide_topic, "--partition", 1) == []
    assert "give --partition, 0 to 3" in takhin.error("consume", wide_topic, "--from", 1)


def test_it_stops_at_the_end_as_of_the_start(takhin, topic):
    """Records that come while it prints are left for the next time."""
    takhin.output("produce", topic, stdin=b"x" * 99 + (b"\n" + b"x" * 99) * 50_000)
    with takhin.start("consume", topic, "--format", "value") as reader:
        reader.stdout.read(1)  # it has begun, and the pipe is too small for it to have ended
        takhin.output("produce", topic, stdin=b"late\n")
        rest = reader.stdout.read()
    assert reader.returncode == 0
    assert rest.count(b"\n") == 50_001
    assert b"late" not in rest


def test_follow(takhin, wide_topic):
    """What is there, then what comes, from all partitions; --max-records ends it."""
    takhin.output("produce", wide_topic, "--partition", 0, stdin=b"old\n")
    with takhin.start("consume", wide_topic, "--follow", "--max-records", 3, "--format", "value") as reader:
        assert reader.stdout.readline() == b"old\n"
        for partition in (3, 1):
            takhin.output("produce", wide_topic, "--partition", partition, stdin=b"new-%d\n" % partition)
            assert reader.stdout.readline() == b"new-%d\n" % partition
        rest, said = reader.communicate(timeout=20)
    assert (reader.returncode, rest, said) == (0, b"", b"")


def test_follow_from_latest_skips_what_is_there(takhin, topic):
    """Only records that come after the command are printed."""
    takhin.output("produce", topic, stdin=b"old\n")
    with takhin.start("consume", topic, "--follow", "--from", "latest", "--max-records", 1) as reader:
        lines = Queue()
        threading.Thread(target=lambda: lines.put(reader.stdout.readline()), daemon=True).start()
        while lines.empty() and reader.poll() is None:  # it says nothing when it is ready
            takhin.output("produce", topic, stdin=b"new\n")
        assert json.loads(lines.get(timeout=20))["value"] == "new"
        reader.communicate(timeout=20)
    assert reader.returncode == 0


@pytest.mark.parametrize("form", ["json", "value"])
def test_a_closed_pipe_ends_it_quietly(takhin, topic, form):
    """`takhin consume … | head -1` is no error, on either side."""
    takhin.output("produce", topic, stdin=b"x" * 99 + (b"\n" + b"x" * 99) * 20_000)
    with takhin.start("consume", topic, "--format", form) as reader:
        assert reader.stdout.readline()
        reader.stdout.close()
        assert reader.wait(20) == 0
        assert reader.stderr.read() == b""


def test_output_that_cannot_be_written(takhin, topic):
    """A full disk under stdout is one line and exit code 1."""
    takhin.output("produce", topic, stdin=b"x\n")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("consume", topic), stdout=full, stderr=subprocess.PIPE, env=takhin.environ(), check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"takhin: cannot read the input or write the output: No space left on device\n"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--partition", "7"], "has partitions 0 to 0, not 7"),
        (["--from", "1"], "offset 1 is outside the log"),
        (["--from", "99999999999999999999"], "is neither earliest, latest, an offset nor a time"),
        (["--from", "yesterday"], "is neither earliest, latest, an offset nor a time"),
        (["--from", ""], "is neither earliest, latest, an offset nor a time"),
        (["--max-records", "0"], "is not in the range"),
        (["--format", "xml"], "'xml' is not one of"),
    ],
)
def test_refusals(takhin, topic, options, sentence):
    """One line, exit code 1."""
    assert sentence in takhin.error("consume", topic, *options)


def test_an_unknown_topic(takhin):
    """Following one is refused like reading one."""
    for options in ([], ["--follow"]):
        assert takhin.error("consume", "nosuch", *options) == "there is no topic 'nosuch'"


def test_follow_ends_with_the_broker(takhin, tmp_path):
    """When the broker stops, so does the follower: one line, exit code 1."""
    with Broker(tmp_path / "data", consume_heartbeat_ms=100) as broker:
        takhin = type(takhin)(broker.address)
        takhin.output("topics", "create", "t")
        takhin.output("produce", "t", stdin=b"x\n")
        with takhin.start("consume", "t", "--follow") as reader:
            assert reader.stdout.readline()
            assert broker.stop() == 0
            _, said = reader.communicate(timeout=30)
        assert reader.returncode == 1
        (line,) = said.decode().splitlines()
        assert broker.address in line or "shutting down" in line


def test_old_connections_are_no_end(takhin, tmp_path, monkeypatch):
    """Through several connections that the broker closes by age, every record arrives once and in order."""
    monkeypatch.setattr(produce, "STREAM_SECONDS_MAX", 0.2)
    ages = {"rpc_connection_age_ms": 500, "rpc_connection_age_grace_ms": 500, "consume_heartbeat_ms": 50}
    with Broker(tmp_path / "data") as broker, connected(broker.address) as stub:
        create_topic(stub, "t")  # may take longer than such a connection lasts
    with Broker(tmp_path / "data", **ages) as broker:
        takhin = type(takhin)(broker.address)
        with takhin.start("consume", "t", "--follow", "--format", "value", "--max-records", 300) as reader:

            def reads():
                pause = threading.Event()
                for number in range(300):
                    yield [b"%d" % number]
                    pause.wait(0.01)

            with connected(broker.address) as stub:
                batches = _Form("t", None, None, 1).batches(reads())
                _Producer(stub, "t", broker.address).run(batches)
            printed, said = reader.communicate(timeout=20)
    assert (reader.returncode, said) == (0, b"")
    assert printed == b"".join(b"%d\n" % number for number in range(300))


@given(st.integers(0, 1 << 52))
def test_a_time_is_rounded_up_to_the_millisecond(microseconds):
    """The first record at or after the moment is wanted, and times of records are whole milliseconds."""
    moment = EPOCH + timedelta(microseconds=microseconds)
    assert parse_start(moment.isoformat()) == Start(time=-(-microseconds // 1_000))


def test_a_time_without_zone_is_local(monkeypatch):
    """It means what the clock on the wall shows."""
    monkeypatch.setitem(os.environ, "TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert parse_start("2026-01-01T21:00") == Start(time=NOON_MS)
        assert parse_start("2026-01-01T12:00Z") == Start(time=NOON_MS)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["0001-01-01", "1969-12-31T23:59:59.9999Z", "9999-12-31T23:59:59"])
def test_times_at_the_edge(text):
    """Each is a time that a request can carry or a usage error, never another exception."""
    try:
        start = parse_start(text)
    except click.BadParameter:
        return
    assert 0 <= start.time < 1 << 63


@pytest.mark.parametrize("text", ["2026-13-01", "-1", "+1", "\u0661", "1\n", "EARLIEST"])
def test_what_is_no_start(text):
    """Refused, and shown as it was given."""
    with pytest.raises(click.BadParameter) as caught:
        parse_start(text)
    assert repr(text) in caught.value.message
