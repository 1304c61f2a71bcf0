"""The rules of positions, without a broker."""

from datetime import UTC, datetime

import pytest

from takhin.client import COMMITTED, END, START, PartitionDescription, Span
from takhin.client.consuming.positions import read_range, times_of, without_committed
from takhin.model import EARLIEST

PARTITION = PartitionDescription(0, beginning_offset=10, end_offset=20, incarnation_id="")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_MS = 1_767_268_800_000


@pytest.mark.parametrize(
    ("span", "first", "position", "stop_offset"),
    [
        (Span(), EARLIEST, 10, None),
        (Span(START, END), EARLIEST, 10, 20),
        (Span(START + 3, END + 3), 13, 13, 23),
        (Span(START - 3, START + 3), 10, 10, 13),
        (Span(END - 30, END - 30), 10, 10, 10),
        (Span(END + 30), 20, 20, None),
        (Span(0, 99), 0, 0, 99),
        (Span(NOON, NOON), 17, 17, 17),
    ],
    ids=str,
)
def test_a_span_as_offsets(span, first, position, stop_offset):
    """A start is moved into the log, an offset is unchanged, and a stop may lie beyond the end."""
    found = read_range(span, PARTITION, {NOON_MS: 17})
    assert (found.first, found.position, found.stop_offset) == (first, position, stop_offset)


def test_times_to_look_up():
    """The datetimes of a span become ms since 1970."""
    assert times_of(Span(NOON, END)) == [NOON_MS]
    assert times_of(Span(3, 4)) == []


@pytest.mark.parametrize(
    ("committed", "uncommitted", "expected"),
    [(5, START, Span(5, 7)), (None, START, Span(START, START)), (None, NOON, Span(NOON, NOON))],
    ids=str,
)
def test_what_committed_stands_for(committed, uncommitted, expected):
    """COMMITTED becomes the committed offset plus its distance, or `uncommitted` as given."""
    assert without_committed(Span(COMMITTED, COMMITTED + 2), committed, uncommitted) == expected


def test_nothing_committed_reads_from_wherever_the_log_begins():
    """The broker is asked for its earliest record, as for START: what is trimmed meanwhile does no harm."""
    found = read_range(without_committed(Span(COMMITTED), None, START), PARTITION, {})
    assert (found.first, found.position, found.stop_offset) == (EARLIEST, 10, None)
