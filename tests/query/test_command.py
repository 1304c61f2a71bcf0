"""`takhin sql`: three forms of output, mistakes as one line, and no files held beside a broker."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import forked
from blackbox.broker_process import Broker, command
from blackbox.clients import connected, create_topic, eventually, produce
from takhin.cli.main import main
from takhin.testing.contract import NOW

PIPE_BYTES_FULL = 56_000
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select i from n"
SOME = """
select offset, key, value, value ->> 'a' as a from records where offset = 0 and partition = 0
union all select 1, '', x'ff', char(10, 27)
union all select 2, 'größer', 1.5, null
"""


@pytest.fixture
def sql(stopped, capsys):
    """Run `takhin sql orders …` in this process; returns what it printed, and checks that it succeeds."""

    def run(*args: str) -> str:
        code = main(["sql", "orders", *args, "--data-dir", str(stopped)])
        printed = capsys.readouterr()
        assert (code, printed.err) == (0, "")
        return printed.out

    return run


def test_a_table(sql):
    """Numbers are right-aligned, control characters escaped, bytes as in SQL, and cells uncut in a pipe."""
    assert sql(SOME).splitlines() == [
        "offset  key     value     a",
        '     0  user-1  {"a": 1}  1',
        "     1          x'ff'     \\n\\x1b",
        "     2  größer  1.5       NULL",
    ]
    wide = "x" * 1_000
    assert sql(f"select '{wide}' as wide, 7 as n").splitlines() == [f"wide{' ' * 996}  n", f"{wide}  7"]


def test_a_long_table(sql):
    """Another table begins after 1,000 rows, and no row is missing."""
    lines = sql("select offset from records where partition = 1").splitlines()
    assert lines.count("offset") == 3
    assert [int(line) for line in lines if line.strip().isdigit()] == list(range(100, 3_000))
    assert sql("select 1 as one where 0").splitlines() == ["one"]


def test_csv(sql):
    """CSV has a line of names, then rows as a CSV reader expects them; NULL is empty."""
    assert list(csv.reader(io.StringIO(sql(SOME, "--csv")))) == [
        ["offset", "key", "value", "a"],
        ["0", "user-1", '{"a": 1}', "1"],
        ["1", "", "x'ff'", "\n\x1b"],
        ["2", "größer", "1.5", ""],
    ]


def test_each_record_is_one_row(sql):
    """Whatever ends a line somewhere is quoted in CSV and escaped in a table, so that no row becomes two."""
    cells = [f"a{end}b" for end in ("\r", "\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")]
    query = " union all ".join(f"select '{cell}' as cell" for cell in cells)
    printed = sql(query, "--csv")
    assert list(csv.reader(io.StringIO(printed, newline=""))) == [["cell"], *([cell] for cell in cells)]
    assert '"a\rb"\n' in printed
    assert len(sql(query).splitlines()) == 1 + len(cells)
    assert [json.loads(line)["cell"] for line in sql(query, "--json").split("\n")[:-1]] == cells


def test_json(sql):
    """JSON has a line for each row, with bytes as base64 and NULL as null."""
    lines = sql("select * from records where partition = 0 and offset in (1, 2, 5)", "--json").splitlines()
    common = {"partition": 0, "headers": "[]"}
    assert [json.loads(line) for line in lines] == [
        common | {"offset": 1, "timestamp": NOW + 1, "key": "user-2", "value": "größer"},
        common | {"offset": 2, "timestamp": NOW + 2, "key": {"base64": "/w=="}, "value": {"base64": "gA=="}},
        common | {"offset": 5, "timestamp": NOW + 5, "key": "user-1", "value": None},
    ]
    assert sql("select 9e999 as n", "--json") == '{"n": "Infinity"}\n'


def test_without_a_query(sql):
    """Without a query it prints the tables with their columns, counts, and a query to try."""
    printed = sql().splitlines()
    assert printed[0] == "orders: 2906 records in 3 partitions, 2 consumer groups"
    tables = ["records", "headers", "committed_offsets", "sources", "partitions"]
    assert [line.split()[0] for line in printed[1:6]] == tables
    example = printed[-1].partition('"')[2].rstrip('"')
    assert sql(example, "--csv").splitlines()[1] == "0,6,2023-11-14T22:13:20.005Z"
    found = json.loads(sql("--json"))
    assert (found["records"], found["tables"]["headers"][2]) == (2_906, "position")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["orders", "select * frm records"], "near \"frm\": syntax error, at 'frm records'"),
        (["orders", "delete from records"], "table records may not be modified"),
        (["orders", "attach 'x' as y"], "a query only reads: it is a SELECT, WITH, VALUES or EXPLAIN"),
        (["orders", "select 1 a, 2 a", "--json"], "two columns are named 'a': name one of them with AS"),
        (
            ["orders", "select cast(x'ff41' as text)"],
            "the query makes text that is not UTF-8, b'\\xffA': use",
        ),
        (
            ["orders", "select 1 from records where key = cast(x'ff' as text)"],
            "the query makes text that is not",
        ),
        (["orders", ENDLESS + " where i < 0", "--timeout", "0.1"], "the query was given up after 0.1 s"),
        (["nope", "select 1"], "there is no topic 'nope' in {}"),
        (["..", "select 1"], "invalid topic name '..'"),
    ],
)
def test_mistakes(stopped, capsys, args, sentence):
    """A mistake is one line on stderr, with exit code 1."""
    assert main(["sql", *args, "--data-dir", str(stopped)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"takhin: {sentence.format(stopped)}")
    assert printed.err.count("\n") == 1


def waiting_bytes(pipe) -> int:
    """The bytes that were written into a pipe and not read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def open_files(pid: int) -> list[str]:
    """Names of files below a topic's folder that a process has open."""
    found = [path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()]
    return [path.name for path in found if "topics" in path.parts]


def test_a_query_that_waits_holds_nothing(tmp_path):
    """A query whose reader does not read has no file open; the reader may also leave."""
    with Broker(tmp_path / "data") as broker, connected(broker.address) as stub:
        create_topic(stub, "orders")
        produce(stub, "orders", [b"%d" % n * 100 for n in range(5_000)])
        everything = "select offset, value from records"
        line = command("sql", "orders", everything, "--csv", "--data-dir", broker.data_dir)
        with forked.Popen(line, stdout=subprocess.PIPE) as query:
            assert query.stdout.readline() == b"offset,value\n"
            eventually(lambda: waiting_bytes(query.stdout) > PIPE_BYTES_FULL and not open_files(query.pid))
            assert open_files(broker.pid)  # control: open files are seen
            produce(stub, "orders", [b"later"])
            offsets = [int(query.stdout.readline().partition(b",")[0]) for _ in range(5_000)]
            assert query.stdout.read() == b""
        assert offsets == list(range(5_000))
        line[line.index(everything)] = ENDLESS
        with forked.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as query:
            assert query.stdout.readline() == b"i\n"
            query.stdout.close()  # as `head` does
            assert (query.wait(10), query.stderr.read()) == (0, b"")
