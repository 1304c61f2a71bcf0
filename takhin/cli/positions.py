"""The offset language of `takhin consume -o`: where to begin, and where to stop.

    start  end  +10  -10  5  @2026-01-31T12:00  @-1h  @1700000000000      a position
    5:20  start:end  -10:  @-1h:  @2026-01-01T00:00:2026-01-02T00:00      from one up to, without, another

Pure: knows no broker. A position says with what it is resolved: the ends of a partition's log, or the offset
of a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

from takhin.limits import INT64_MAX

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
AGO = re.compile(r"-((?:[0-9]{1,12}(?:ms|s|m|h|d))+)")
PART = re.compile(r"([0-9]+)(ms|s|m|h|d)")
SECONDS_DIGITS, MS_DIGITS = 10, 13
"""Digits of a time since 1970 in seconds and in milliseconds, from 2001 to 2286."""

FORMS = (
    "start, end, an offset, +N (after the start), -N (before the end), @TIME or @-1h, "
    "or two of them with a : between"
)


class Base(Enum):
    """What a position counts from."""

    START = auto()
    END = auto()
    ZERO = auto()
    TIME = auto()


@dataclass(frozen=True, slots=True)
class Position:
    """`number` records from `base` (below 0 before it), or with TIME ms since 1970."""

    base: Base
    number: int = 0

    def offset(self, start: int, end: int) -> int:
        """Which offset it is in a log from start to end; what lies beyond an end is that end.

        An offset that was named stays as it is, so that the broker can refuse it. Not for a TIME.
        """
        if self.base is Base.ZERO:
            return self.number
        return min(max((start if self.base is Base.START else end) + self.number, start), end)


@dataclass(frozen=True, slots=True)
class Range:
    """stop: exclusive; None where nothing was said."""

    begin: Position
    stop: Position | None = None


def parse(text: str, now_ms: int) -> Range:
    """A position or a range of two. now_ms: what `@-1h` counts from. Raises ValueError with a sentence."""
    whole = _position(text, now_ms)
    if whole is not None:
        return Range(whole)
    for colon in (at for at, character in enumerate(text) if character == ":"):  # times hold some, too
        left, right = text[:colon], text[colon + 1 :]
        begin = _position(left, now_ms) if left else Position(Base.START)
        if right and left.startswith("@") and not right.startswith("@") and right not in ("start", "end"):
            right = f"@{right}"
        stop = _position(right, now_ms) if right else Position(Base.END)
        if begin is not None and stop is not None:
            return Range(begin, stop)
    raise ValueError(f"{text!r} is no place in a log: it may be {FORMS}")


def _position(text: str, now_ms: int) -> Position | None:
    if text in ("start", "end"):
        return Position(Base[text.upper()])
    if re.fullmatch(r"[+-]?[0-9]{1,19}", text) and abs(int(text)) <= INT64_MAX:
        base = {"+": Base.START, "-": Base.END}.get(text[0], Base.ZERO)
        return Position(base, int(text))
    if text.startswith("@"):
        time_ms = _time_ms(text[1:], now_ms)
        return None if time_ms is None else Position(Base.TIME, max(0, time_ms))
    return None


def _time_ms(text: str, now_ms: int) -> int | None:
    if ago := AGO.fullmatch(text):
        return now_ms - sum(int(count) * UNIT_MS[unit] for count, unit in PART.findall(ago[1]))
    if re.fullmatch(r"[0-9]+", text):
        return {SECONDS_DIGITS: int(text) * 1_000, MS_DIGITS: int(text)}.get(len(text))
    try:
        moment = datetime.fromisoformat(text).astimezone()  # without a zone it is local time
    except (ValueError, OverflowError):
        return None
    return -((EPOCH - moment) // timedelta(milliseconds=1))  # rounded up: the first record at or after it
