"""The language of positions: what each form means, and what is not a position."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from takhin.cli.positions import parse, parse_single
from takhin.client import END, START, Span
from takhin.client.model import EPOCH, time_of

NOW = time_of(1_800_000_000_000)
HOUR = timedelta(hours=1)


def local(*moment: int) -> datetime:
    return datetime(*moment).astimezone()


POSITIONS = {
    "start": START,
    "end": END,
    "+10": START + 10,
    "+0": START,
    "-10": END - 10,
    "-0": END,
    "5": 5,
    "9223372036854775807": 2**63 - 1,
}


@pytest.mark.parametrize("text", POSITIONS)
def test_a_position(text):
    """A position is an offset, or a count from either end."""
    assert parse(text, NOW) == Span(POSITIONS[text])


TIMES = {
    "@-1h": NOW - HOUR,
    "@-1h30m": NOW - HOUR - timedelta(minutes=30),
    "@-250ms": NOW - timedelta(milliseconds=250),
    "@-2d": NOW - 48 * HOUR,
    "@1700000000": time_of(1_700_000_000_000),
    "@1700000000123": time_of(1_700_000_000_123),
    "@2026-01-01T00:00": local(2026, 1, 1),
    "@2026-01-01": local(2026, 1, 1),
    "@2026-01-01T00:00:01.5Z": datetime(2026, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC),
    "@2026-01-01T00:00:00.0001Z": datetime(2026, 1, 1, 0, 0, 0, 100, tzinfo=UTC),
    "@1960-01-01": EPOCH,
    "@-999999999999d": EPOCH,
}


@pytest.mark.parametrize("text", TIMES)
def test_a_time(text):
    """A time is relative, since 1970, or ISO 8601, local unless it names a zone; it is never before 1970."""
    assert parse(text, NOW) == Span(TIMES[text])


RANGES = {
    "5:20": Span(5, 20),
    "start:end": Span(START, END),
    ":": Span(START, END),
    ":20": Span(START, 20),
    "-10:": Span(END - 10, END),
    "+5:-5": Span(START + 5, END - 5),
    "@-1h:": Span(NOW - HOUR, END),
    "@-2h:-1h": Span(NOW - 2 * HOUR, NOW - HOUR),
    "@-2h:@-1h": Span(NOW - 2 * HOUR, NOW - HOUR),
    "@-2h:end": Span(NOW - 2 * HOUR, END),
    "@2026-01-01T00:00:": Span(local(2026, 1, 1), END),
    "@2026-01-01T00:00:2026-01-02T12:30": Span(local(2026, 1, 1), local(2026, 1, 2, 12, 30)),
    "start:@-1h": Span(START, NOW - HOUR),
}


@pytest.mark.parametrize("text", RANGES)
def test_a_range(text):
    """A range is two positions with a colon between, even if times have colons of their own."""
    assert parse(text, NOW) == RANGES[text]


@pytest.mark.parametrize(
    "text",
    ["", "x", "5:x", "1:2:3", "@", "@x", "@-1y", "@-h", "99999999999999999999", "5 ", "5\n", "@12", "++1"],
)
def test_what_is_neither(text):
    """The error repeats what was given and lists what may be given."""
    with pytest.raises(ValueError, match="is not a position in a log; give start, end, an offset") as caught:
        parse(text, NOW)
    assert repr(text) in str(caught.value)


def test_a_single_position():
    """Where a range will not do, what is neither a position nor a range is not advised to become a range."""
    assert parse_single("-10", NOW) == END - 10
    with pytest.raises(ValueError, match="is a range; give a single position"):
        parse_single("5:20", NOW)
    with pytest.raises(ValueError, match="is not a position in a log; give start, end") as caught:
        parse_single("yesterday", NOW)
    assert "between" not in str(caught.value)


@pytest.mark.parametrize("text", ["2020-01-01", "2026-01-01T12:00", "-1h", "2026-01-01:2026-02-01"])
def test_a_time_without_its_sign(text):
    """Where only the @ of a time is missing, the error asks whether it was meant."""
    with pytest.raises(ValueError, match="is not a position") as caught:
        parse(text, NOW)
    assert f"; did you mean @{text}? Else give start, end" in str(caught.value)
