"""How `takhin produce` turns bytes into records, without a broker."""

from __future__ import annotations

from itertools import chain, repeat

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin.cli import produce
from takhin.cli.produce import _line_parser, _lines
from takhin.client import Header, NewRecord


@given(st.lists(st.text("ab\n\r", min_size=1).map(str.encode), max_size=8))
def test_lines_do_not_depend_on_how_the_bytes_arrive(chunks):
    """However the bytes arrive, all but the newlines are kept, and a last line without one counts."""
    text = b"".join(chunks)
    expected = text.split(b"\n")
    if not expected[-1]:  # what follows the last newline is no line
        expected.pop()
    assert list(chain.from_iterable(_lines(chunks))) == expected


def test_a_line_is_passed_on_as_soon_as_it_is_whole():
    """A line is passed on as soon as it is complete and does not wait for a larger batch."""
    chunks = iter([b"a\nb\nc", b"d", b"e\n"])
    lines = _lines(chunks)
    assert next(lines) == [b"a", b"b"]
    assert next(lines) == [b"cde"]


def test_a_line_without_end_is_refused(monkeypatch):
    """A line without end is refused before it fills the memory; the lines before it are passed on."""
    monkeypatch.setattr(produce, "LINE_BYTES_MAX", 100)
    lines = _lines(repeat(b"ok\n" + bytes(60)))
    assert next(lines) == [b"ok"]
    lines = _lines(repeat(bytes(60)))
    with pytest.raises(click.ClickException, match="longer than 100 bytes"):
        next(lines)


@given(st.lists(st.tuples(st.sampled_from([b"", b"a", b"\xff"]), st.sampled_from([b"", b"1", b"=", b"a=b"]))))
def test_keys_end_at_the_first_separator(records):
    """Everything after the first separator is the value, even further separators."""
    parse = _line_parser(None, "=", ())
    assert [parse(key + b"=" + value)[0][:2] for key, value in records] == [
        (value, key) for key, value in records
    ]


def test_without_a_separator_a_line_is_a_value():
    """Without a separator the line is the value, and the key is the given one or absent (not empty)."""
    assert _line_parser(None, None, ())(b"a=1\r") == (NewRecord(b"a=1\r", None, []), None)
    assert _line_parser("", None, ("h=a=b", "h="))(b"") == (
        NewRecord(b"", b"", [Header("h", b"a=b"), Header("h", b"")]),
        None,
    )


def test_a_line_without_separator():
    with pytest.raises(ValueError, match="it has no '::'"):
        _line_parser(None, "::", ())(b"c:3")
