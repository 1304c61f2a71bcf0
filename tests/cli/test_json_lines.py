"""Records survive as JSON lines, and a line that is no record is named."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin.cli.json_lines import NotARecordError, line, parse
from takhin.client import Header, NewRecord, Record

RAW = st.one_of(st.binary(max_size=20), st.text(max_size=20).map(str.encode))


@given(
    key=st.none() | RAW,
    value=st.none() | RAW,
    headers=st.lists(st.tuples(st.text(max_size=5), RAW), max_size=3),
    timestamp=st.integers(0, 2**63 - 1),
    partition=st.integers(0, 2**31 - 1),
)
def test_round_trip(key, value, headers, timestamp, partition):
    """Binary, text, empty and absent values and repeated header keys survive in one line."""
    record = Record("orders", partition, 7, timestamp, key, value, [Header(*each) for each in headers])
    printed = line(record)
    assert printed.count(b"\n") == 1
    assert parse(printed) == (
        NewRecord(value, key, [Header(*each) for each in headers], timestamp),
        partition,
    )


def test_what_it_looks_like():
    """A value is text if it is UTF-8, base64 otherwise, null if there is none; letters are not escaped."""
    record = Record("orders", 1, 7, 5, "ü".encode(), b"\xff", [Header("h", b"")])
    assert line(record).decode() == (
        '{"topic": "orders", "partition": 1, "offset": 7, "timestamp": 5, "key": "ü", '
        '"value": {"base64": "/w=="}, "headers": [{"key": "h", "value": ""}]}\n'
    )
    assert json.loads(line(record._replace(key=None, value=None)))["key"] is None


def test_only_the_value_is_needed():
    assert parse(b'{"value": "v"}') == (NewRecord(b"v"), None)
    assert parse(b' {"value": null, "key": null, "headers": null, "timestamp": null} ') == (
        NewRecord(None),
        None,
    )
    assert parse(b'{"value": {"base64": ""}}')[0].value == b""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "not a record in JSON"),
        (b"{", "not a record in JSON"),
        (b'{"value": "\xff"}', "not a record in JSON"),
        (b"[1]", "not a JSON object but [1]"),
        (b'"' + b"x" * 1_000 + b'"', "not a JSON object but"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"value": "v", "valeu": 1}', "an unknown field 'valeu'; the fields are topic, "),
        (b'{"key": "k"}', "it has no value"),
        (b'{"value": "v", "value": "w"}', "'value' is given twice"),
        (b'{"value": 5}', 'value must be text, {"base64": …} or null, not 5'),
        (b'{"value": {"a": 1}}', 'not {"a": 1}'),
        (b'{"value": {"base64": "/w="}}', "value is not valid base64"),
        (b'{"value": {"base64": "/w== "}}', "value is not valid base64"),
        (b'{"value": {"base64": "\xc3\xbc"}}', "value is not valid base64"),
        (b'{"value": "\\ud800"}', "half of a surrogate pair"),
        (b'{"value": "v", "timestamp": -1}', "timestamp must be a whole number from 0, not -1"),
        (b'{"value": "v", "timestamp": 1.0}', "timestamp must be a whole number from 0, not 1.0"),
        (b'{"value": "v", "timestamp": 9223372036854775808}', "not 9223372036854775808"),
        (b'{"value": "v", "partition": true}', "partition must be a whole number from 0, not true"),
        (b'{"value": "v", "headers": {}}', "headers must be a list"),
        (b'{"value": "v", "headers": [{"key": "k"}]}', 'a header must be {"key": "text", "value": …}'),
        (
            b'{"value": "v", "headers": [{"key": 1, "value": ""}]}',
            'a header must be {"key": "text", "value": …}',
        ),
        (b'{"value": "v", "headers": [{"key": "k", "value": null}]}', "'k' has the value null"),
    ],
)
def test_what_is_no_record(text, sentence):
    """The error is one sentence that quotes the line, cut short if it is long."""
    with pytest.raises(NotARecordError) as refused:
        parse(text)
    assert sentence in str(refused.value)
    assert len(str(refused.value)) < 250
