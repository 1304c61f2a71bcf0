"""`takhin consume` against a broker: where it begins and ends, what it prints, and closed pipes."""

from __future__ import annotations

import json
import subprocess
import threading
from datetime import datetime
from pathlib import Path
from queue import Queue

import pytest

import forked
from blackbox.broker_process import Broker, command
from cli.records import fill, put, without_waits
from takhin.client.sync import Producer
from takhin.v1 import takhin_pb2 as pb

NOON_MS = 1_767_268_800_000  # 2026-01-01T12:00Z


def values(takhin, topic, *options) -> list[bytes]:
    return takhin.output("consume", topic, *options).split(b"\n")[:-1]


def test_json(takhin, broker, topic):
    """A value is text if it is UTF-8, base64 otherwise, null if there is none; headers are in order."""
    headers = [pb.RecordHeader(key="h", value=b"1"), pb.RecordHeader(key="h", value=b"\xff")]
    put(
        broker,
        topic,
        pb.Record(key="é".encode(), value=b'{"a": "\x00"}', timestamp=NOON_MS, headers=headers),
        pb.Record(key=b"", value=b"\xff", timestamp=NOON_MS + 1),
        pb.Record(timestamp=NOON_MS + 2),
    )
    lines = takhin.output("consume", topic, "--json").splitlines()
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
    """A value is printed as its bytes and a newline; a record without a value is an empty line."""
    put(broker, topic, pb.Record(value=b"\xff\r"), pb.Record(), pb.Record(value=b"a\nb"))
    assert takhin.output("consume", topic) == b"\xff\r\n\na\nb\n"


def test_where_it_begins(takhin, broker, topic):
    """-o takes the ends, offsets, counts from either end, and times with and without a zone."""
    put(broker, topic, *[pb.Record(value=b"%d" % n, timestamp=NOON_MS + n) for n in range(5)])
    everything = [b"0", b"1", b"2", b"3", b"4"]
    local = datetime.fromtimestamp((NOON_MS + 3) / 1_000).isoformat(timespec="milliseconds")  # noqa: DTZ006
    for start, expected in [
        ("start", everything),
        ("end", []),
        ("+4", [b"4"]),
        ("-2", [b"3", b"4"]),
        ("-99", everything),
        ("1:3", [b"1", b"2"]),
        ("-2:-1", [b"3"]),
        (":end", everything),
        ("3:99", [b"3", b"4"]),
        ("3:1", []),
        ("0", everything),
        ("3", [b"3", b"4"]),
        ("5", []),
        ("@2026-01-01T12:00:00.002Z", [b"2", b"3", b"4"]),
        ("@2026-01-01T12:00:00.001Z:2026-01-01T12:00:00.003Z", [b"1", b"2"]),
        (f"@{NOON_MS + 4}", [b"4"]),
        ("@2026-01-01T13:00:00.002001+01:00", [b"3", b"4"]),
        (f"@{local}", [b"3", b"4"]),
        ("@1960-01-01", everything),
        ("@2100-01-01", []),
    ]:
        assert values(takhin, topic, "-o", start) == expected, start
    assert values(takhin, topic) == everything


def test_all_partitions(takhin, broker, wide_topic):
    """Partitions are printed one after the other, or only the one that is named; an offset needs one."""
    for partition in (2, 0, 3):
        put(
            broker,
            wide_topic,
            *[pb.Record(value=b"%d-%d" % (partition, n)) for n in (0, 1)],
            partition=partition,
        )
    assert values(takhin, wide_topic) == [b"0-0", b"0-1", b"2-0", b"2-1", b"3-0", b"3-1"]
    assert values(takhin, wide_topic, "--max-records", 3) == [b"0-0", b"0-1", b"2-0"]
    assert values(takhin, wide_topic, "-p", 2, "-o", 1) == [b"2-1"]
    assert values(takhin, wide_topic, "--partition", 1) == []
    assert "give --partition, 0 to 3" in takhin.error("consume", wide_topic, "-o", 1)
    assert values(takhin, wide_topic, "-o", "-1") == [b"0-1", b"2-1", b"3-1"]


def test_it_stops_at_the_end_as_of_the_start(takhin, broker, topic):
    """Records that arrive while it prints are not printed."""
    fill(broker, topic, 50_001)
    with takhin.start("consume", topic) as reader:
        reader.stdout.read(1)  # it has begun, and the pipe is too small for it to have ended
        put(broker, topic, pb.Record(value=b"late"))
        rest = reader.stdout.read()
    assert reader.returncode == 0
    assert rest.count(b"\n") == 50_001
    assert b"late" not in rest


def test_follow(takhin, broker, wide_topic):
    """Existing records are printed, then new ones, from all partitions, until --max-records."""
    put(broker, wide_topic, pb.Record(value=b"old"))
    with takhin.start("consume", wide_topic, "--follow", "--max-records", 3) as reader:
        assert reader.stdout.readline() == b"old\n"
        for partition in (3, 1):
            put(broker, wide_topic, pb.Record(value=b"new-%d" % partition), partition=partition)
            assert reader.stdout.readline() == b"new-%d\n" % partition
        rest, said = reader.communicate(timeout=20)
    assert (reader.returncode, rest, said) == (0, b"", b"")


def test_follow_reads_partitions_that_come_later(takhin, broker, topic):
    """--follow prints the records of partitions that the topic gets meanwhile, from the first one on."""
    put(broker, topic, pb.Record(value=b"first"))
    with takhin.start("consume", topic, "--follow", "-n", 2) as reader:
        assert reader.stdout.readline() == b"first\n"
        takhin.output("topics", "alter", topic, "--partitions", 2)
        put(broker, topic, pb.Record(value=b"second"), partition=1)
        assert reader.stdout.readline() == b"second\n"
        assert reader.wait(20) == 0


def test_follow_from_the_end_skips_what_is_there(takhin, broker, topic):
    """Only records that are produced after the start of the command are printed."""
    put(broker, topic, pb.Record(value=b"old"))
    with takhin.start("consume", topic, "--follow", "-o", "end", "-n", 1, "--json") as reader:
        lines = Queue()
        threading.Thread(target=lambda: lines.put(reader.stdout.readline()), daemon=True).start()
        while lines.empty() and reader.poll() is None:  # the command prints nothing when it is ready
            put(broker, topic, pb.Record(value=b"new"))
        assert json.loads(lines.get(timeout=20))["value"] == "new"
        reader.communicate(timeout=20)
    assert reader.returncode == 0


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_closed_pipe_ends_it_quietly(takhin, broker, topic, form):
    """`takhin consume … | head -1` is not an error, on either side."""
    fill(broker, topic, 20_001)
    with takhin.start("consume", topic, *form) as reader:
        assert reader.stdout.readline()
        reader.stdout.close()
        assert reader.wait(20) == 0
        assert reader.stderr.read() == b""


def test_output_that_cannot_be_written(takhin, broker, topic):
    """If the disk under stdout is full, the command prints one line and exits with 1."""
    put(broker, topic, pb.Record(value=b"x"))
    with Path("/dev/full").open("wb") as full:
        done = forked.run(
            command("consume", topic), stdout=full, stderr=subprocess.PIPE, env=takhin.environ(), check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"takhin: cannot write the output: No space left on device\n"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--partition", "7"], "has partitions 0 to 0, not 7"),
        (["-o", "1"], "offset 1 is outside the log"),
        (["-o", "1", "--follow"], "offset 1 is outside the log"),
        (
            ["-o", "99999999999999999999"],
            "'99999999999999999999' is not a position in a log; give start, end",
        ),
        (["-o", "yesterday"], "'yesterday' is not a position in a log"),
        (["-o", ""], "'' is not a position in a log"),
        (["-o", "0:1", "--follow"], "'0:1' says where to stop, but --follow never stops"),
        (["--json", "-f", "%v"], "use either --json or --format, not both"),
        (["--max-records", "0"], "is not in the range"),
        (["-f", "%x"], "there is no verb %x"),
    ],
)
def test_refusals(takhin, topic, options, sentence):
    """A refusal is one line, with exit code 1."""
    assert sentence in takhin.error("consume", topic, *options)


def test_an_unknown_topic(takhin):
    """Following an unknown topic is refused like reading one."""
    for options in ([], ["--follow"]):
        assert takhin.error("consume", "nosuch", *options) == "there is no topic 'nosuch'"


def test_follow_rides_out_a_restart(takhin, tmp_path):
    """When the broker is killed and restarted at the same address, no record is lost or printed twice."""
    with Broker(tmp_path / "data") as broker, takhin.to(broker).start("consume", "t", "--follow") as early:
        assert early.wait(20) == 1  # the topic does not exist
        takhin = takhin.to(broker)
        takhin.output("topics", "create", "t")
        put(broker, "t", pb.Record(value=b"1"))
        with takhin.start("consume", "t", "--follow", "-n", 2) as reader:
            assert reader.stdout.readline() == b"1\n"
            broker.kill()
            with Broker(tmp_path / "data", listen=broker.address) as again:
                put(again, "t", pb.Record(value=b"2"))
                printed, said = reader.communicate(timeout=30)
                assert (printed, without_waits(said)) == (b"2\n", [])
        assert reader.returncode == 0


def test_old_connections_are_no_end(takhin, tmp_path):
    """When the broker closes old connections, every record still arrives once and in order."""
    ages = {"rpc_connection_age_ms": 500, "rpc_connection_age_grace_ms": 500, "consume_heartbeat_ms": 50}
    with Broker(tmp_path / "data") as broker:
        takhin.to(broker).output("topics", "create", "t")  # this may take longer than a connection lives
    with Broker(tmp_path / "data", **ages) as broker:
        takhin = takhin.to(broker)
        with (
            takhin.start("consume", "t", "--follow", "-n", 300) as reader,
            Producer(broker.address) as producer,  # which sends again what an old connection did not answer
        ):
            pause = threading.Event()
            for number in range(300):
                producer.send("t", b"%d" % number)
                pause.wait(0.01)
            printed, said = reader.communicate(timeout=20)
    assert (reader.returncode, said) == (0, b"")
    assert printed == b"".join(b"%d\n" % number for number in range(300))


def test_several_topics(takhin, broker, topic):
    """Topics are printed in the order given, those of a pattern after them; each is printed once."""
    wide_topic = f"{topic}-w"
    takhin.output("topics", "create", wide_topic, "--partitions", 4)
    put(broker, topic, pb.Record(value=b"one"))
    put(broker, wide_topic, pb.Record(value=b"two"), partition=1)
    put(broker, wide_topic, pb.Record(value=b"three"), partition=3)
    form = ["-f", r"%t %v\n"]
    first = [f"{topic} one".encode()]
    second = [f"{wide_topic} two".encode(), f"{wide_topic} three".encode()]
    for given, expected in (
        ([topic, wide_topic], first + second),
        ([wide_topic, topic, wide_topic], second + first),
        (["--pattern", f"{topic}.*"], first + second),
        ([wide_topic, "--pattern", f"{topic[:-1]}."], second + first),
        ([topic, wide_topic, "-n", 2], (first + second)[:2]),
        ([topic, wide_topic, "-o", "-1", "-p", 0], first),
    ):
        assert takhin.output("consume", *given, *form).splitlines() == expected
    with takhin.start("consume", topic, wide_topic, "--follow", "-n", 5) as reader:
        assert {reader.stdout.readline() for _ in range(3)} == {b"one\n", b"two\n", b"three\n"}
        put(broker, wide_topic, pb.Record(value=b"four"), partition=2)
        assert reader.stdout.readline() == b"four\n"
        put(broker, topic, pb.Record(value=b"five"))
        assert reader.stdout.readline() == b"five\n"
        assert reader.wait(20) == 0
    takhin.output("topics", "delete", wide_topic)


def test_several_topics_refused(takhin, topic):
    """What names no topic, or a position that only one partition has, is refused."""
    assert "there is no topic 'nosuch'" in takhin.error("consume", topic, "nosuch")
    assert "no topic's name matches 'nosuch.*'" in takhin.error("consume", "--pattern", "nosuch.*")
    assert "is not a regular expression" in takhin.error("consume", "--pattern", "(")
    takhin.output("topics", "create", f"{topic}-2")
    assert "give one topic" in takhin.error("consume", topic, f"{topic}-2", "-o", "5", "-p", "0")
    takhin.output("topics", "delete", f"{topic}-2")


def test_delimiters_and_nulls(takhin, topic):
    """What --delimiter and --null print, `produce` reads back with the same options."""
    options = ["--delimiter", r"\0", "--null", "NULL"]
    text = b"two\nlines\0NULL\0\0"
    takhin.output("produce", topic, *options, stdin=text)
    assert takhin.output("consume", topic, *options) == text
    assert takhin.output("consume", topic, "-f", "%V %v,") == b"9 two\nlines,-1 ,0 ,"
    for wrong in (["--json", "--null", "x"], ["-f", "%v", "-D", "x"], ["--json", "-D", "x"]):
        assert "not both" in takhin.error("consume", topic, *wrong)


def test_a_file_as_a_record(takhin, topic, tmp_path):
    """A file becomes one record, byte for byte; with JSON, or lines to divide, that is refused."""
    content = bytes(range(256)) * 3_000
    (tmp_path / "file").write_bytes(content)
    takhin.output("produce", topic, tmp_path / "file", "--file-as-record", "-k", "name")
    assert takhin.output("consume", topic, "-f", "%k=%v") == b"name=" + content
    for wrong in (["--json"], ["-K", "="], ["-D", ";"]):
        assert "with --" in takhin.error("produce", topic, "--file-as-record", *wrong)


def test_blank_lines_of_json(takhin, topic):
    """Blank lines and CRLF between JSON records are no records; the number of a bad line counts them."""
    text = b'{"value": "a"}\r\n\r\n\n{"value": "b"}\r\n'
    assert b"produced 2 records" in takhin("produce", topic, "--json", stdin=text).stderr
    assert takhin.output("consume", topic) == b"a\nb\n"
    assert takhin.error("produce", topic, "--json", stdin=b"\n\nno").startswith("line 3: ")
