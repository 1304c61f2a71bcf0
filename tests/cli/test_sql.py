"""`takhin sql` beside a broker: three forms of output, mistakes as one line, and nothing held or changed."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import shlex
import sys
import termios
from pathlib import Path

import pytest

from blackbox.broker_process import command
from blackbox.clients import connected, eventually
from takhin.v1 import takhin_pb2 as pb

PIPE_BYTES_FULL = 56_000
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select i from n"
NOON_MS = 1_767_268_800_000  # 2026-01-01T12:00Z


@pytest.fixture
def orders(takhin, broker, topic):
    """Runs `takhin sql` on a topic of three records: text, bytes, and neither key nor value."""
    put(
        broker,
        topic,
        pb.Record(key="é".encode(), value=b'{"a": "x,\\n"}', timestamp=NOON_MS),
        pb.Record(key=b"", value=b"\xff", timestamp=NOON_MS + 1),
        pb.Record(timestamp=NOON_MS + 2),
    )
    return lambda *args: ("sql", topic, *args, "--data-dir", broker.data_dir)


def put(broker, topic, *records: pb.Record) -> None:
    with connected(broker.address) as stub:
        request = pb.ProduceMessageRequest(topic=topic, partition=0, records=records)
        assert stub.ProduceMessage(request, timeout=10).error == ""


SOME = """
select offset, key, value, value ->> 'a' as a from records where offset = 0
union all select 1, '', x'ff', null
"""


def test_a_table(takhin, orders):
    """Numbers to the right, control characters escaped, bytes as SQL writes them, no cell cut in a pipe."""
    assert takhin.output(*orders(SOME)).decode().splitlines() == [
        "offset  key  value          a",
        '     0  é    {"a": "x,\\n"}  x,\\n',
        "     1       x'ff'          NULL",
    ]


def test_csv(takhin, orders):
    """A line of names, then the rows as a reader of CSV takes them; NULL is empty."""
    printed = takhin.output(*orders(SOME, "--csv")).decode()
    assert list(csv.reader(io.StringIO(printed))) == [
        ["offset", "key", "value", "a"],
        ["0", "é", '{"a": "x,\\n"}', "x,\n"],
        ["1", "", "x'ff'", ""],
    ]


def test_json(takhin, orders):
    """A line for each row, bytes as base64, NULL as null."""
    lines = takhin.output(*orders("select * from records", "--json")).splitlines()
    found = [json.loads(line) for line in lines]
    common = {"partition": 0, "headers": "[]"}
    assert found == [
        common | {"offset": 0, "timestamp": NOON_MS, "key": "é", "value": '{"a": "x,\\n"}'},
        common | {"offset": 1, "timestamp": NOON_MS + 1, "key": "", "value": {"base64": "/w=="}},
        common | {"offset": 2, "timestamp": NOON_MS + 2, "key": None, "value": None},
    ]


def test_without_a_query(takhin, topic, orders):
    """The tables with their columns, counts, and a query that can be tried."""
    printed = takhin.output(*orders()).decode().splitlines()
    assert printed[0] == f"{topic}: 3 records in 1 partition, 0 consumer groups"
    assert [line.split()[0] for line in printed[1:5]] == [
        "records",
        "headers",
        "committed_offsets",
        "partitions",
    ]
    example = printed[-1].partition('"')[2].rstrip('"')
    assert takhin.output(*orders(example, "--csv")).splitlines()[1] == b"0,3,2026-01-01T12:00:00.002Z"
    found = json.loads(takhin.output(*orders("--json")))
    assert (found["records"], found["tables"]["headers"][2]) == (3, "position")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["select * frm records"], "near \"frm\": syntax error, at 'frm records'"),
        (["delete from records"], "table records may not be modified"),
        (["attach 'x' as y"], "a query only reads: it is a SELECT, WITH, VALUES or EXPLAIN"),
        (["select 1 as a, 2 as a", "--json"], "two columns are named 'a': name one of them with AS"),
        ([ENDLESS, "--timeout", "0.1"], "the query was given up after 0.1 s"),
    ],
)
def test_mistakes(takhin, orders, args, sentence):
    """One line, exit code 1."""
    assert takhin.error(*orders(*args)) == sentence


def test_no_such_topic(takhin, broker, tmp_path):
    """A topic or a folder that is not there is named."""
    assert (
        takhin.error("sql", "nope", "--data-dir", broker.data_dir)
        == f"there is no topic 'nope' in {broker.data_dir}"
    )
    assert "is no data folder" in takhin.error("sql", "orders", "--data-dir", tmp_path)


def waiting_bytes(pipe) -> int:
    """What was written into a pipe and not read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def open_files(pid: int) -> list[str]:
    """Names of files below a topic's folder that a process has open."""
    found = [path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()]
    return [path.name for path in found if "topics" in path.parts]


def test_a_query_that_waits_holds_nothing(takhin, broker, topic):
    """While its reader takes nothing, a query has no file open; it then prints what was there."""
    put(broker, topic, *(pb.Record(value=b"%d" % n * 100) for n in range(5_000)))
    arguments = ("sql", topic, "select offset, value from records", "--csv", "--data-dir", broker.data_dir)
    with takhin.start(*arguments) as query:
        assert query.stdout.readline() == b"offset,value\n"
        eventually(lambda: waiting_bytes(query.stdout) > PIPE_BYTES_FULL and not open_files(query.pid))
        assert open_files(broker.pid)  # control: such files are seen
        put(broker, topic, pb.Record(value=b"later"))
        lines = query.stdout.read().splitlines()
    assert [int(line.partition(b",")[0]) for line in lines] == list(range(5_000))


def test_a_reader_that_has_enough(takhin, orders):
    """`head` ends a query without end, which is no error."""
    line = shlex.join(command(*orders(ENDLESS, "--csv")))
    done = takhin.run(["bash", "-o", "pipefail", "-c", f"{line} | head -2"], b"")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"i\n1\n", b"")
