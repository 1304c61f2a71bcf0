"""`takhin topics`: each verb, and its sentence when it is refused."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event

import pytest

import forked
from blackbox.broker_process import command
from cli.records import put
from takhin.v1 import takhin_pb2 as pb


def test_create_list_delete(takhin):
    """A created topic is listed with the others, sorted, until it is deleted."""
    assert takhin.output("topics", "create", "b") == b"created topic b with 1 partition\n"
    assert takhin.output("topics", "create", "a", "--partitions", 3) == b"created topic a with 3 partitions\n"
    listed = takhin.output("topics", "list").decode().splitlines()
    assert [line.split() for line in listed] == [
        ["topic", "partitions", "records", "size", "oldest", "newest"],
        ["a", "3", "0", *listed[1].split()[3:5], "-", "-"],
        ["b", "1", "0", *listed[2].split()[3:5], "-", "-"],
    ]
    assert takhin.output("topics", "delete", "a") == b"deleted topic a\n"
    assert [of["name"] for of in json.loads(takhin.output("topics", "list", "--json"))] == ["b"]
    takhin.output("topics", "delete", "b")


def test_describe(takhin, broker, wide_topic):
    """The configs are shown, and for each partition a line with both ends of its log."""
    takhin.output("topics", "create", "small", "--config", "max.message.bytes=77")
    records = [pb.Record(value=b"a", timestamp=1_000), pb.Record(value=b"b", timestamp=2_999)]
    put(broker, wide_topic, *records, partition=2)
    head, columns, *rows = takhin.output("topics", "describe", wide_topic).decode().splitlines()
    assert head.startswith(f"{wide_topic}  partitions=4  id=")
    assert columns.split() == ["partition", "beginning", "end", "records", "size", "oldest", "newest"]
    cells = [row.split() for row in rows]
    assert [row[:4] + row[6:] for row in cells] == [
        ["0", "0", "0", "0", "-", "-"],
        ["1", "0", "0", "0", "-", "-"],
        ["2", "0", "2", "2", "1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z"],
        ["3", "0", "0", "0", "-", "-"],
    ]
    assert all(float(row[4]) > 0 for row in cells)
    assert b"max.message.bytes=77" in takhin.output("topics", "describe", "small")
    everything = takhin.output("topics", "describe").decode()
    assert everything.count("partitions=") == 2
    takhin.output("topics", "delete", "small")


def test_rates(takhin, broker, wide_topic):
    """With --rate it is seen where records come in, how fast, and where none do."""
    done = Event()

    def keep_on() -> int:
        """Put records until the commands are done; how many."""
        for sent in count(1):
            put(broker, wide_topic, *[pb.Record(value=b"v")] * 10, partition=1)
            if done.is_set():
                return 10 * sent
        raise AssertionError

    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(keep_on)
        try:
            [document] = json.loads(takhin.output("topics", "describe", wide_topic, "--rate", 0.5, "--json"))
            table = takhin.output("topics", "describe", wide_topic, "--rate", 0.2).decode().splitlines()
            listed = takhin.output("topics", "list", "--rate", 0.2).decode().splitlines()
        finally:
            done.set()
        sent = sending.result()
    rates = [of["records_per_s"] for of in document["partitions"]]
    assert (rates[0], rates[2:]) == (0, [0, 0])
    assert 0 < rates[1] < 2 * sent
    assert [line.split()[-1] for line in table[1:3]] == ["records/s", "0.0"]
    assert float(table[3].split()[-1]) > 0
    assert float(next(line for line in listed if line.startswith(wide_topic)).split()[-1]) > 0
    assert b"/s" not in takhin.output("topics", "list")


def test_trim(takhin, broker, wide_topic):
    """The oldest records go: up to an offset, a time or the end, of all partitions or of one."""
    for partition in (0, 1):
        records = [pb.Record(value=b"v", timestamp=1_000_000_000_000 + n) for n in range(5)]
        put(broker, wide_topic, *records, partition=partition)
    trim = ("topics", "trim", wide_topic, "--before")
    done = takhin.output(*trim, "2", "--partition", 1).decode().splitlines()
    assert [line.split() for line in done[:-1]] == [
        ["partition", "beginning", "end", "removed"],
        ["1", "2", "5", "2"],
    ]
    assert done[-1] == f"removed 2 records of {wide_topic}"
    assert b"removed 4 records" in takhin.output(*trim, "@1000000000003")
    refused = takhin(*trim, "5")
    assert (refused.returncode, b"from 0 to 0" in refused.stderr or b"5" in refused.stderr) == (1, True)
    found = json.loads(takhin.output(*trim, "end", "--json"))
    assert [tuple(row.values()) for row in found] == [(0, 5, 5, 2), (1, 5, 5, 2), (2, 0, 0, 0), (3, 0, 0, 0)]


def test_trim_counts_records(takhin, broker):
    """In a log with gaps as many records are said to be removed as there were, not as many as offsets."""
    takhin.output("topics", "create", "gaps", "--config", "cleanup.policy=compact")
    for n in range(10):
        put(broker, "gaps", pb.Record(key=b"%d" % (n % 2), value=b"v"))
    takhin.output("topics", "compact", "gaps")
    [removed] = json.loads(takhin.output("topics", "trim", "gaps", "--before", 9, "--json"))
    assert removed == {"partition": 0, "beginning": 9, "end": 10, "removed": 1}
    put(broker, "gaps", pb.Record(key=b"0", value=b"v"))
    assert takhin.output("topics", "trim", "gaps", "--before", "end").endswith(b"removed 2 records of gaps\n")
    takhin.output("topics", "delete", "gaps")


@pytest.mark.parametrize(
    ("before", "question"),
    [
        ("end", "remove 8 records of {}: all before end, in 4 partitions? [y/N]: "),
        ("+2", "remove 3 records of {}: all before start +2, in 4 partitions? [y/N]: "),
        ("@1970-01-01T00:00:01Z", "remove 8 records of {}: all before 1970-01-01T0"),
    ],
)
def test_trim_asks_what_goes(takhin, broker, wide_topic, before, question):
    """On a terminal the question names how many records go, before which place, from how many partitions."""
    for partition, records in ((0, 1), (1, 7)):
        sent = [pb.Record(value=b"v", timestamp=1 + n) for n in range(records)]
        put(broker, wide_topic, *sent, partition=partition)
    asked, code = answered(takhin, b"n\n", "topics", "trim", wide_topic, "--before", before)
    assert (code, asked.startswith(question.format(wide_topic).encode())) == (1, True), asked
    [left] = json.loads(takhin.output("topics", "describe", wide_topic, "--json"))
    assert [of["record_count"] for of in left["partitions"]] == [1, 7, 0, 0]


def test_compact(takhin, broker):
    """The command waits for the pass and says how many records went."""
    takhin.output("topics", "create", "keyed", "--config", "cleanup.policy=compact")
    for value in (b"1", b"2", b"3"):
        put(broker, "keyed", pb.Record(key=b"k", value=value))
    assert takhin.output("topics", "compact", "keyed") == b"removed 2 records of keyed\n"
    assert takhin.output("consume", "keyed", "-f", "%o %v ") == b"2 3 "
    again = json.loads(takhin.output("topics", "compact", "keyed", "--json"))
    assert again == {"topic": "keyed", "removed": 0}
    takhin.output("topics", "delete", "keyed")


def test_describe_an_unknown_topic(takhin, topic):
    """Known topics are shown, and unknown ones are an error."""
    done = takhin("topics", "describe", "nosuch", topic, "other")
    assert done.returncode == 1
    assert done.stderr == b"takhin: there is no topic 'nosuch', 'other'\n"
    assert done.stdout.startswith(topic.encode())


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["create", "x/y"], "invalid topic name 'x/y'"),
        (["create", ""], "invalid topic name ''"),
        (["create", "x", "--partitions", "0"], "0 is not in the range"),
        (["create", "x", "--partitions", str(1 << 31)], "is not in the range"),
        (
            ["create", "x", "--partitions", "2000"],
            "--partitions: num_partitions must be 1 to 1000 (topics.partitions_per_topic_max), not 2000",
        ),
        (["create", "x", "--config", "retention"], "'retention' is not KEY=VALUE"),
        (["create", "x", "--config", "no.such=1"], "unknown topic config 'no.such'"),
        (["create", "x", "--config", "a=1", "--config", "a=2"], "a is given twice"),
        (["delete", "nosuch"], "there is no topic 'nosuch'"),
        (["trim", "nosuch", "--before", "0"], "there is no topic 'nosuch'"),
        (["trim", "x"], "Missing option '--before'"),
        (["trim", "x", "--before", "yesterday"], "is not a position in a log; give start, end, an offset"),
        (["trim", "x", "--before", "2020-01-01"], "did you mean @2020-01-01?"),
        (["trim", "x", "--before", "1:2"], "is a range"),
        (["compact", "nosuch"], "there is no topic 'nosuch'"),
        (["delete"], "Missing argument 'NAME'"),
        (["creat", "x"], "there is no command 'creat'; did you mean 'create'?"),
        (["create", "\udcff"], "is not UTF-8"),
        (["list", "--server", "nowhere"], "must be HOST:PORT"),
        (["list", "--server", "localhost:0"], "port 0"),
    ],
)
def test_refusals(takhin, args, sentence):
    """A refusal is one line, with exit code 1, and nothing is created."""
    assert sentence in takhin.error("topics", *args)
    assert b"\nx" not in takhin.output("topics", "list")


def test_a_topic_that_exists(takhin, topic):
    """Creating an existing topic is an error that names it."""
    assert takhin.error("topics", "create", topic) == f"topic '{topic}' exists already"


def test_json(takhin, request):
    """Create, describe, list and delete print documents that agree with each other."""
    name = request.node.name
    created = json.loads(takhin.output("topics", "create", name, "--partitions", 2, "--json"))
    assert created.pop("warnings") == []
    assert created["name"] == name
    assert [of["partition"] for of in created["partitions"]] == [0, 1]
    assert created["configs"]["max.message.bytes"] == "1048576"
    assert json.loads(takhin.output("topics", "describe", name, "--json")) == [created]
    assert created in json.loads(takhin.output("topics", "list", "--json"))
    assert json.loads(takhin.output("topics", "delete", name, "--json")) == {"deleted": name}


def answered(takhin, answer: bytes | None, *args: str) -> tuple[bytes, int]:
    """What a command asks on a terminal, and its exit code once that was answered; None: by Ctrl-C."""
    keyboard, theirs = pty.openpty()
    with forked.Popen(
        command(*args), env=takhin.environ(), stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL
    ) as process:
        os.close(theirs)
        shown = b""
        while b"[y/N]:" not in shown:
            shown += os.read(keyboard, 1_000)
        if answer is None:
            process.send_signal(signal.SIGINT)
        else:
            os.write(keyboard, answer)
        try:
            return shown, process.wait(20)
        finally:
            process.kill()
            os.close(keyboard)


@pytest.mark.parametrize("noun", ["topics", "groups"])
@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1), (b"\x04", 1), (None, 130)])
def test_delete_asks_on_a_terminal(takhin, topic, noun, answer, code):
    """On a terminal, delete asks first, and only yes deletes; --yes answers beforehand."""
    takhin.output("topics", "create", "doomed")
    takhin.output("offsets", "set", "doomed", topic, "-o", "end")
    assert answered(takhin, answer, noun, "delete", "doomed")[1] == code
    left = b"doomed" in takhin.output(noun, "list")
    assert left == (code != 0)
    for name in ("topics", "groups"):
        takhin(name, "delete", "doomed", "--yes")


def test_alter(takhin, topic):
    """Configs are set and reset and partitions added; what follows from it is a warning on stderr."""
    done = takhin("topics", "alter", topic, "--set", "retention.ms=5", "--set", "read.only=true")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"altered topic {topic}\n".encode(), b"")
    done = takhin("topics", "alter", topic, "--reset", "read.only", "--partitions", 3)
    assert (done.returncode, done.stdout) == (0, f"altered topic {topic}\n".encode())
    assert done.stderr.startswith(b"takhin: warning: with 3 partitions instead of 1, most keys belong to ")
    head, *_ = takhin.output("topics", "describe", topic).decode().splitlines()
    assert re.fullmatch(rf"{topic}  partitions=3  id=\S+  retention.ms=5", head)


def test_create_warns_as_alter_does(takhin):
    """What follows from the configs of a new topic is said on stderr, and in the document."""
    limits = ("--config", "cleanup.policy=compact", "--config", "retention.bytes=5")
    done = takhin("topics", "create", "warned", *limits)
    assert (done.returncode, done.stdout) == (0, b"created topic warned with 1 partition\n")
    assert done.stderr.startswith(b"takhin: warning: retention.bytes has no effect while cleanup.policy is ")
    takhin.output("topics", "delete", "warned")
    [warning] = json.loads(takhin.output("topics", "create", "warned", *limits, "--json"))["warnings"]
    assert warning.startswith("retention.bytes has no effect")
    takhin.output("topics", "delete", "warned")


def test_alter_as_json(takhin, topic):
    """The document is the topic's, with the warnings."""
    altered = json.loads(takhin.output("topics", "alter", topic, "--partitions", 2, "--json"))
    assert "2 partitions instead of 1" in altered.pop("warnings")[0]
    assert json.loads(takhin.output("topics", "describe", topic, "--json")) == [altered]
    assert len(altered["partitions"]) == 2


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "there is nothing to change: give --set, --reset or --partitions"),
        (["--set", "retention.ms"], "'retention.ms' is not KEY=VALUE"),
        (["--set", "retention.ms=x"], "retention.ms takes a whole number"),
        (["--set", "retention.ms=7d"], "not '7d'; in ms: 604800000"),
        (["--partitions", "2000"], "--partitions: num_partitions must be 1 to 1000"),
        (["--reset", "retention"], "unknown topic config 'retention'"),
        (["--partitions", "0"], "0 is not in the range"),
        (["--set", "read.only=true", "--reset", "read.only"], "both set and reset"),
    ],
)
def test_alterations_that_are_refused(takhin, topic, args, sentence):
    """A refusal is one line with exit code 1."""
    assert sentence in takhin.error("topics", "alter", topic, *args)


def test_describe_configs(takhin, topic):
    """Every config is shown with its value and who says so."""
    takhin.output("topics", "alter", topic, "--set", "retention.ms=5")
    shown = takhin.output("topics", "describe", topic, "--configs").decode()
    rows = {line.split()[0]: line.split()[1:3] for line in shown.splitlines()}
    assert rows["config"] == ["value", "origin"]
    assert rows["retention.ms"] == ["5", "topic"]
    assert rows["retention.bytes"] == ["-1", "default"]
    [document] = json.loads(takhin.output("topics", "describe", topic, "--configs", "--json"))
    [entry] = [of for of in document["configs"] if of["name"] == "retention.ms"]
    assert (entry["value"], entry["origin"]) == ("5", "topic")
    assert "age" in entry["doc"]
