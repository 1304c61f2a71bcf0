"""The offset language: what each form means, in a log that goes from 100 to 200."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from takhin.cli.positions import Base, Position, Range, parse

NOW = 1_800_000_000_000
HOUR = 3_600_000


def ms(*moment: int) -> int:
    return int(datetime(*moment).astimezone().timestamp() * 1_000)


POSITIONS = {
    "start": 100,
    "end": 200,
    "+10": 110,
    "+0": 100,
    "-10": 190,
    "-0": 200,
    "+1000": 200,
    "-1000": 100,
    "5": 5,
    "150": 150,
    "9223372036854775807": 2**63 - 1,
}


@pytest.mark.parametrize("text", POSITIONS)
def test_a_position(text):
    """Relative ones stay within the log; an offset that was named is the broker's to judge."""
    found = parse(text, NOW)
    assert found.stop is None
    assert found.begin.offset(100, 200) == POSITIONS[text]


TIMES = {
    "@-1h": NOW - HOUR,
    "@-1h30m": NOW - HOUR - 30 * 60_000,
    "@-250ms": NOW - 250,
    "@-2d": NOW - 48 * HOUR,
    "@1700000000": 1_700_000_000_000,
    "@1700000000123": 1_700_000_000_123,
    "@2026-01-01T00:00": ms(2026, 1, 1),
    "@2026-01-01": ms(2026, 1, 1),
    "@2026-01-01T00:00:01.5Z": int(datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC).timestamp() * 1_000) + 500,
    "@2026-01-01T00:00:00.0001Z": int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1_000) + 1,
    "@1960-01-01": 0,
}


@pytest.mark.parametrize("text", TIMES)
def test_a_time(text):
    """Ago, since 1970, or ISO 8601, local unless it says its zone; rounded up to a millisecond."""
    assert parse(text, NOW) == Range(Position(Base.TIME, TIMES[text]))


START, END = Position(Base.START), Position(Base.END)
RANGES = {
    "5:20": Range(Position(Base.ZERO, 5), Position(Base.ZERO, 20)),
    "start:end": Range(START, END),
    ":": Range(START, END),
    ":20": Range(START, Position(Base.ZERO, 20)),
    "-10:": Range(Position(Base.END, -10), END),
    "+5:-5": Range(Position(Base.START, 5), Position(Base.END, -5)),
    "@-1h:": Range(Position(Base.TIME, NOW - HOUR), END),
    "@-2h:-1h": Range(Position(Base.TIME, NOW - 2 * HOUR), Position(Base.TIME, NOW - HOUR)),
    "@-2h:@-1h": Range(Position(Base.TIME, NOW - 2 * HOUR), Position(Base.TIME, NOW - HOUR)),
    "@-2h:end": Range(Position(Base.TIME, NOW - 2 * HOUR), END),
    "@2026-01-01T00:00:": Range(Position(Base.TIME, ms(2026, 1, 1)), END),
    "@2026-01-01T00:00:2026-01-02T12:30": Range(
        Position(Base.TIME, ms(2026, 1, 1)), Position(Base.TIME, ms(2026, 1, 2, 12, 30))
    ),
    "start:@-1h": Range(START, Position(Base.TIME, NOW - HOUR)),
}


@pytest.mark.parametrize("text", RANGES)
def test_a_range(text):
    """Two positions with a colon between, also where times have colons of their own."""
    assert parse(text, NOW) == RANGES[text]


@pytest.mark.parametrize(
    "text",
    ["", "x", "5:x", "1:2:3", "@", "@x", "@-1y", "@-h", "99999999999999999999", "5 ", "5\n", "@12", "++1"],
)
def test_what_is_neither(text):
    """The sentence names what was given and what could have been."""
    with pytest.raises(ValueError, match="is no place in a log: it may be start, end, an offset") as caught:
        parse(text, NOW)
    assert repr(text) in str(caught.value)
