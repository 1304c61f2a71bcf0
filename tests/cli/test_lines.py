"""How `takhin produce` turns bytes into records, without a broker."""

from __future__ import annotations

from itertools import chain, repeat

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin.cli import lines as module
from takhin.cli.lines import given_bytes, json_parser, line_parser, lines, whole
from takhin.client import Header, NewRecord


@given(st.lists(st.text("ab\n\r", min_size=1).map(str.encode), max_size=8))
def test_lines_do_not_depend_on_how_the_bytes_arrive(chunks):
    """However the bytes arrive, all but the newlines are kept, and a last line without one counts."""
    text = b"".join(chunks)
    expected = text.split(b"\n")
    if not expected[-1]:  # what follows the last newline is no line
        expected.pop()
    assert list(chain.from_iterable(lines(chunks))) == expected


def test_a_line_is_passed_on_as_soon_as_it_is_whole():
    """A line is passed on as soon as it is complete and does not wait for a larger batch."""
    chunks = iter([b"a\nb\nc", b"d", b"e\n"])
    found = lines(chunks)
    assert next(found) == [b"a", b"b"]
    assert next(found) == [b"cde"]


def test_a_line_without_end_is_refused(monkeypatch):
    """A line without end is refused before it fills the memory; the lines before it are passed on."""
    monkeypatch.setattr(module, "LINE_BYTES_MAX", 100)
    found = lines(repeat(b"ok\n" + bytes(60)))
    assert next(found) == [b"ok"]
    with pytest.raises(click.ClickException, match="longer than 100 bytes"):
        next(lines(repeat(bytes(60))))
    with pytest.raises(click.ClickException, match="longer than 100 bytes"):
        next(whole(repeat(bytes(60))))


@given(
    st.lists(st.text("ab;", min_size=1).map(str.encode), max_size=8),
    st.sampled_from([b";", b";;", b"a;a", b";a;b"]),
)
def test_any_delimiter(chunks, delimiter):
    """However the bytes arrive, lines end at the leftmost delimiter, also of one that overlaps itself."""
    expected = b"".join(chunks).split(delimiter)
    if not expected[-1]:
        expected.pop()
    assert list(chain.from_iterable(lines(chunks, delimiter))) == expected


@given(st.lists(st.binary(max_size=4)))
def test_a_file_as_a_record(chunks):
    """A whole file is one record, with its newlines, also if it is empty."""
    assert list(whole(chunks)) == [[b"".join(chunks)]]


def test_escapes_and_nulls():
    """Separators take escapes; a value or key that is the given text is null, and no other is."""
    parse = line_parser(None, r"\t", (), "NULL")
    assert [parse(line)[0][:2] for line in (b"k\tNULL", b"NULL\tv", b"\tNULL ", b"k\t")] == [
        *[(None, b"k"), (b"v", None), (b"NULL ", b""), (b"", b"k")]
    ]
    assert line_parser(None, None, (), "")(b"")[0].value is None
    assert given_bytes("--delimiter", r"\x00\r\n\\;ü") == b"\0\r\n\\;" + "ü".encode()
    for wrong in ("\\", r"\q", r"a\x4", ""):
        with pytest.raises(click.BadParameter):
            given_bytes("--delimiter", wrong)


def test_blank_lines_between_json():
    """Blank lines, and the carriage returns of other systems, are no records and no errors."""
    parse = json_parser(keep_partitions=True)
    assert [parse(line) for line in (b"", b"\r", b"  \t")] == [None] * 3
    assert parse(b'{"value": "v", "partition": 3}\r') == (NewRecord(b"v"), 3)
    assert json_parser(keep_partitions=False)(b'{"value": "v", "partition": 3}') == (NewRecord(b"v"), None)


@given(st.lists(st.tuples(st.sampled_from([b"", b"a", b"\xff"]), st.sampled_from([b"", b"1", b"=", b"a=b"]))))
def test_keys_end_at_the_first_separator(records):
    """Everything after the first separator is the value, even further separators."""
    parse = line_parser(None, "=", ())
    assert [parse(key + b"=" + value)[0][:2] for key, value in records] == [
        (value, key) for key, value in records
    ]


def test_without_a_separator_a_line_is_a_value():
    """Without a separator the line is the value, and the key is the given one or absent (not empty)."""
    assert line_parser(None, None, ())(b"a=1\r") == (NewRecord(b"a=1\r", None, []), None)
    assert line_parser("", None, ("h=a=b", "h="))(b"") == (
        NewRecord(b"", b"", [Header("h", b"a=b"), Header("h", b"")]),
        None,
    )


def test_a_line_without_separator():
    with pytest.raises(ValueError, match="it has no '::'"):
        line_parser(None, "::", ())(b"c:3")
