"""SQL over a topic: what it sees, that it skips nothing that was asked for, and what it must not do."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from takhin.errors import QueryError
from takhin.model import Header
from takhin.query import tables
from takhin.query.query import run
from takhin.query.topic import TopicFiles
from takhin.testing.contract import NOW, batch, numbered, spec

FIXTURES = Path(__file__).parents[1] / "fixtures"
AS_SQL_SEES = ('{"a": 1}', "größer", b"\x80", b"nul\0nul", "", None)


class Counted(TopicFiles):
    """A topic that counts how often a file was opened for reading."""

    reads = 0

    def read(self, *args):
        self.reads += 1
        return super().read(*args)


def rows(topic, sql, **options):
    return list(run(topic, sql, **options).rows)


@pytest.fixture
def topic(stopped) -> Counted:
    return Counted(stopped, "orders")


def test_records(topic):
    """Rows come in order from all partitions; bytes are text if UTF-8 without NUL; headers are JSON."""
    found = rows(topic, "SELECT * FROM records WHERE partition = 0")
    assert [row[:3] for row in found] == [(0, n, NOW + n) for n in range(len(AS_SQL_SEES))]
    assert [row[4] for row in found] == list(AS_SQL_SEES)
    assert [row[3] for row in found] == ["user-1", "user-2", b"\xff", None, "", "user-1"]
    assert json.loads(found[0][5]) == [
        {"key": "trace", "value": "1"},
        {"key": "trace", "value": {"base64": "/w=="}},
    ]
    assert [row[5] for row in found[1:]] == ["[]", "[]", "[]", '[{"key": "only", "value": ""}]', "[]"]
    everything = rows(topic, "SELECT partition, offset, value FROM records")
    assert everything[len(AS_SQL_SEES) :] == [(1, n, str(n)) for n in range(100, 3_000)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT offset FROM records WHERE value LIKE '%ÖSS%' OR value LIKE '%ößER'", [(1,)]),
        ("SELECT offset FROM records WHERE iif(json_valid(value), value ->> 'a', 0) = 1", [(0,)]),
        ("SELECT hex(value) FROM records WHERE typeof(value) = 'blob'", [("80",), ("6E756C006E756C",)]),
        ("SELECT offset FROM records WHERE value = x'80'", [(2,)]),
        ("SELECT offset FROM records WHERE key = 'USER-2' COLLATE NOCASE", [(1,)]),
        ("SELECT count(*), count(key), count(DISTINCT key) FROM records", [(2_906, 5, 4)]),
        ("SELECT time FROM records WHERE offset = 3", [("2023-11-14T22:13:20.003Z",)]),
        ("SELECT key, value FROM headers WHERE offset = 0", [("trace", "1"), ("trace", b"\xff")]),
        (
            "SELECT r.offset FROM headers h JOIN records r USING (partition, offset) WHERE h.key = 'only'",
            [(4,)],
        ),
        (
            "SELECT *, typeof(lag) FROM committed_offsets",
            [
                ("billing", 0, 2, 6, 4, NOW, "so far", "integer"),
                ("late", 1, 0, 3_000, 2_900, NOW, "", "integer"),
            ],
        ),
        ("SELECT * FROM sources", [("shop", 0, "baskets", 3, 41, "of-baskets")]),
    ],
)
def test_questions(topic, sql, expected):
    """Text functions, JSON, bytes, collations, joins and lag work as expected of SQL."""
    assert rows(topic, sql) == expected


def test_partitions(topic):
    """The table of partitions has the start and end of each log."""
    found = rows(topic, "SELECT partition, beginning_offset, end_offset FROM partitions")
    assert found == [(0, 0, 6), (1, 100, 3_000), (2, 0, 0)]


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        ("SELECT * FROM records WHERE partition = 1 AND offset = 2000", 1),
        ("SELECT * FROM records WHERE offset = 2000", 3),
        ("SELECT * FROM records WHERE partition = 1 AND offset > 2990", 1),
        (f"SELECT * FROM records WHERE partition = 1 AND timestamp >= {NOW + 2_950}", 15),
        ("SELECT * FROM records WHERE partition = 1 ORDER BY offset DESC LIMIT 3", 1),
        ("SELECT * FROM records WHERE partition IN (1, 2) AND offset BETWEEN 1000 AND 1010", 2),
        ("SELECT * FROM records LIMIT 1", 1),
        ("SELECT * FROM headers WHERE partition = 0 AND offset = 4", 1),
        ("SELECT * FROM partitions WHERE partition = 2", 1),
        ("SELECT count(*) FROM records", 31),
    ],
)
def test_a_narrow_question_reads_little(topic, monkeypatch, sql, reads):
    """Conditions on partition, offset and time limit what is read; a full scan takes 31 reads."""
    monkeypatch.setattr(tables, "SPAN_OFFSETS_MAX", 100)
    topic.reads = 0
    found = rows(topic, sql)
    assert 0 < len(found) <= 100
    assert topic.reads == reads


NUMBERS = st.sampled_from([0, 1, 3.0, 5.5, -1, 99, 100, 101, 2_500, "'2'", "NULL", 1e9])
TIMES = st.integers(-2, 3_001).map(lambda n: NOW + n)
COMPARED = st.sampled_from(["=", "<", "<=", ">", ">=", "IS", "!="])
TEXTS = st.sampled_from(
    ["'user-1'", "'2500'", "x'80'", "''", "x''", "NULL", "'%5_'", "'user%'", "'*1*'", "7"]
)
CONDITIONS = st.one_of(
    st.tuples(st.sampled_from(["partition", "offset"]), COMPARED, NUMBERS),
    st.tuples(st.just("timestamp"), COMPARED, TIMES),
    st.tuples(st.sampled_from(["key", "value"]), st.sampled_from(["=", "LIKE", "GLOB", "IS"]), TEXTS),
).map(lambda of: "{} {} {}".format(*of))
WHERES = st.recursive(
    CONDITIONS,
    lambda inner: st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(
        lambda of: "({} {} {})".format(*of)
    ),
    max_leaves=4,
)
ORDERS = st.sampled_from(
    ["partition, offset", "partition DESC, offset DESC", "partition, offset DESC", "offset, partition DESC"]
)


@pytest.fixture
def plain(topic):
    """An ordinary table with the rows of `records`."""
    db = apsw.Connection(":memory:")
    db.execute(
        "CREATE TABLE records (partition INTEGER, offset INTEGER, timestamp INTEGER, key, value, headers)"
    )
    db.executemany("INSERT INTO records VALUES (?,?,?,?,?,?)", rows(topic, "SELECT * FROM records"))
    return db


@given(WHERES, ORDERS, st.sampled_from(["", "LIMIT 3", "LIMIT 200 OFFSET 50"]))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_skipping_changes_no_answer(topic, plain, where, order, limit):
    """Any condition and order gives the same rows as an ordinary table, which skips nothing."""
    sql = f"SELECT * FROM records WHERE {where} ORDER BY {order} {limit}"
    assert rows(topic, sql) == plain.execute(sql).fetchall()


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM records",
        "INSERT INTO records (offset) VALUES (1)",
        "UPDATE records SET value = 1",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t (a)",
        "DROP TABLE records",
        "PRAGMA query_only = 0",
        "SELECT * FROM pragma_database_list",
        "ATTACH 'other.db' AS other",
        "VACUUM INTO 'other.db'",
        "BEGIN IMMEDIATE",
        "SELECT load_extension('other')",
        "EXPLAIN DELETE FROM records",
    ],
)
def test_nothing_can_be_changed(topic, stopped, tmp_path, monkeypatch, sql):
    """A statement that writes, opens a file or changes a setting is refused, and leaves no file."""
    monkeypatch.chdir(tmp_path)
    before = sorted(stopped.rglob("*"))
    with pytest.raises(QueryError, match=r"only reads|may not be modified|not authorized|prohibited"):
        rows(topic, sql)
    assert sorted(stopped.rglob("*")) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sql", "sentence"),
    [
        ("SELECT * FRM records", "near \"FRM\": syntax error, at 'FRM records'"),
        ("SELECT nil FROM records", "no such column: nil, at 'nil FROM records'"),
        ("SELECT * FROM other", "no such table: other"),
        (" -- nothing", "the query is empty"),
        ("SELECT 1; SELECT 2", "there must be one query, and nothing after it: 'SELECT 2'"),
        ("SELECT json_extract(value, '$.a') FROM records", "malformed JSON"),
        ("SELECT abs(-9223372036854775808)", "integer overflow"),
    ],
)
def test_mistakes(topic, sql, sentence):
    """A mistake in the query is reported in SQLite's words, with its place."""
    with pytest.raises(QueryError) as raised:
        rows(topic, sql)
    assert str(raised.value) == sentence


def test_no_such_topic(stopped, tmp_path):
    """A missing topic or data folder is named."""
    with pytest.raises(QueryError, match="there is no topic 'other' in "):
        TopicFiles(stopped, "other")
    with pytest.raises(QueryError, match="invalid topic name"):
        TopicFiles(stopped, "../orders")
    with pytest.raises(QueryError, match="is neither a data folder nor a backup"):
        TopicFiles(tmp_path / "nowhere", "orders")


def test_a_missing_file_is_said(stopped, tmp_path):
    """A topic with a missing file is refused instead of answered in part."""
    data_dir = shutil.copytree(stopped, tmp_path / "data")
    (data_dir / "topics/orders/1.db").unlink()
    with pytest.raises(QueryError, match=r"topic 'orders' has 3 partitions, but .* has 2 files of it"):
        TopicFiles(data_dir, "orders")
    (data_dir / "topics/orders/0.db").unlink()
    with pytest.raises(QueryError, match=r"2\.db does not hold partition 0 of 'orders'"):
        TopicFiles(data_dir, "orders")


def test_time_is_limited(topic):
    """An endless query is ended, even if it reads no records."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with pytest.raises(QueryError, match=r"given up after 0\.1 s"):
        rows(topic, endless, timeout_s=0.1)
    with pytest.raises(QueryError, match=r"given up after 0\.1 s"):
        rows(topic, "SELECT sum(a.offset * b.offset) FROM records a, records b", timeout_s=0.1)


async def test_it_sees_one_state(store):
    """What is appended during a query is not seen by it; what is trimmed may be seen or not."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(numbered(3_000))
    found = run(TopicFiles(store.data_dir, "orders"), "SELECT offset FROM records").rows
    assert next(found) == (0,)
    await log.append(numbered(10))
    await log.trim(2_000)
    rest = [offset for (offset,) in found]
    assert rest == [*range(1, rest.index(2_000) + 1), *range(2_000, 3_000)]
    later = TopicFiles(store.data_dir, "orders")
    assert rows(later, "SELECT min(offset), max(offset) FROM records") == [(2_000, 3_009)]


@pytest.mark.parametrize(("again", "sentence"), [(False, "was deleted"), (True, "was replaced")])
async def test_a_topic_that_goes_away(store, again, sentence):
    """A query ends with an error when its topic is deleted, even if another topic has the name now."""
    log = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await log.append(numbered(3_000))
    found = run(TopicFiles(store.data_dir, "orders"), "SELECT offset FROM records").rows
    assert next(found) == (0,)
    await store.engine.delete_topic("orders")
    if again:
        await store.engine.create_topic(spec("orders"))
    with pytest.raises(QueryError, match=f"topic 'orders' {sentence} while it was read"):
        list(found)


async def test_it_holds_little(store, monkeypatch):
    """A read ends after some bytes, within its span, and the query continues there in either direction."""
    log = (await store.engine.create_topic(spec("large"))).partitions[0]
    values = [bytes([65 + n]) * 300_000 for n in range(20)]
    headers = {n: [Header("a", b"1"), Header("b", b"2")] for n in range(20)}
    for n, value in enumerate(values):
        await log.append(batch(value, headers={0: headers[n]}))
    monkeypatch.setattr(tables, "READ_BYTES", 1_000_000)
    topic = TopicFiles(store.data_dir, "large")
    largest = max(
        len(part) for part in tables.RECORDS.scan(topic, tables.Wanted(frozenset({"value"}), (), False))
    )
    assert largest == 4
    for order in ("ASC", "DESC"):
        found = rows(topic, f"SELECT offset, substr(value, 1, 1) FROM records ORDER BY offset {order}")
        assert found == [(n, chr(65 + n)) for n in range(20)][:: 1 if order == "ASC" else -1]
    monkeypatch.setattr(tables, "READ_BYTES", 0)
    assert rows(topic, "SELECT offset, position FROM headers") == [
        (n, at) for n in range(20) for at in (0, 1)
    ]


def test_it_leaves_no_trace(stopped):
    """A stopped broker's folder is the same after a query as before."""
    before = {path: path.stat()[:9] for path in stopped.rglob("*")}
    assert rows(TopicFiles(stopped, "orders"), "SELECT count(*) FROM records") == [(2_906,)]
    after = {path: path.stat()[:9] for path in stopped.rglob("*")}
    assert [(path, stat[1:7], stat[8]) for path, stat in before.items()] == [
        (path, stat[1:7], stat[8]) for path, stat in after.items()
    ]


def test_files_of_an_earlier_schema(tmp_path):
    """Files of an earlier Takhin, killed or not, are read unchanged and are not migrated."""
    with tarfile.open(FIXTURES / "schema-1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    topic = TopicFiles(tmp_path, "orders")
    assert rows(topic, "SELECT count(*), min(offset) FROM records") == [(2_914, 0)]
    assert rows(topic, "SELECT value FROM records WHERE offset >= 3000") == [
        ("",),
        (None,),
        ("größer",),
        (b"\x80",),
    ]
