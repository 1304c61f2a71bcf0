"""How `takhin produce` turns bytes into batches, without a broker."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from takhin.cli import produce
from takhin.cli.produce import BATCH_RECORDS_MAX, _Form, _lines
from takhin.partitioner import partition_for_key


def read_by(chunks):
    """A read function that returns these chunks, then the end of the file."""
    rest = iter([*chunks, b""])
    return lambda: next(rest)


def form(*, partition=None, separator=None, num_partitions=4) -> _Form:
    return _Form("topic", partition, separator, num_partitions)


@given(st.lists(st.text("ab\n\r", min_size=1).map(str.encode), max_size=8))
def test_lines_do_not_depend_on_how_the_bytes_arrive(chunks):
    """Every byte but the newlines is kept, and a last line without one counts."""
    text = b"".join(chunks)
    expected = text.split(b"\n")
    if not expected[-1]:  # what follows the last newline is no line
        expected.pop()
    assert list(chain.from_iterable(_lines(read_by(chunks)))) == expected


def test_a_line_is_passed_on_as_soon_as_it_is_whole():
    """Nothing is held back for the sake of a larger batch, except a line that has only begun."""
    chunks = iter([b"a\nb\nc", b"d", b"e\n"])
    lines = _lines(lambda: next(chunks))
    assert next(lines) == [b"a", b"b"]
    assert next(lines) == [b"cde"]


def test_a_line_without_end_is_refused(monkeypatch):
    """/dev/zero does not fill the memory; the lines before it have been passed on."""
    monkeypatch.setattr(produce, "LINE_BYTES_MAX", 100)
    lines = _lines(lambda: b"ok\n" + bytes(60))
    assert next(lines) == [b"ok"]
    lines = _lines(lambda: bytes(60))
    with pytest.raises(click.ClickException, match="longer than 100 bytes"):
        next(lines)


@given(st.lists(st.integers(0, 2_500), max_size=4))
def test_batches_are_bounded_and_in_order(sizes):
    """At most 1,000 records each, of one read each, and their line numbers add up."""
    reads = [[b"x"] * size for size in sizes]
    number = 1
    for batch in form().batches(reads):
        assert batch.line == number
        assert 1 <= len(batch.request.records) <= BATCH_RECORDS_MAX
        number += len(batch.request.records)
    assert number == 1 + sum(sizes)


KEYED = st.tuples(
    st.sampled_from([b"", b"a", b"b", b"key", b"\xff"]), st.sampled_from([b"", b"1", b"=", b"a=b"])
)


@given(st.lists(KEYED, max_size=50))
def test_batches_with_keys_stay_in_one_partition_and_in_order(records):
    """A batch's keys belong to one partition; the records of a key keep their order; none is lost."""
    lines = [key + b"=" + value for key, value in records]
    expected, sent = defaultdict(list), defaultdict(list)
    for key, value in records:
        expected[key].append(value)
    for batch in form(separator=b"=").batches([lines]):
        assert batch.request.partition == -1
        assert len({partition_for_key(record.key, 4) for record in batch.request.records}) == 1
        assert lines[batch.line - 1].startswith(batch.request.records[0].key)
        for record in batch.request.records:
            sent[record.key].append(record.value)
    assert sent == expected


def test_keys_do_not_split_a_batch_for_a_named_partition():
    """With --partition all records go there, whatever their keys."""
    (batch,) = form(partition=3, separator=b"=").batches([[b"a=1", b"b=2", b"c=3"]])
    assert batch.request.partition == 3
    assert [record.key for record in batch.request.records] == [b"a", b"b", b"c"]


def test_records_without_keys_have_none():
    """Without a separator the key is absent, which differs from empty; the value is the line."""
    (batch,) = form().batches([[b"a=1\r", b""]])
    assert [record.HasField("key") for record in batch.request.records] == [False, False]
    assert [record.value for record in batch.request.records] == [b"a=1\r", b""]
    assert all(record.HasField("value") for record in batch.request.records)


def test_a_line_without_separator_is_named():
    """The lines before it are sent, in batches as ever; the error says which line it is."""
    batches = form(separator=b"::", num_partitions=1).batches([[b"a::1"], [b"b::2", b"c:3", b"d::4"]])
    assert [record.value for _ in range(2) for record in next(batches).request.records] == [b"1", b"2"]
    with pytest.raises(click.ClickException, match="line 3 has no '::'"):
        next(batches)
