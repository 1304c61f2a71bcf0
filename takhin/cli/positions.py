"""The positions that -o takes: where to begin, and where to stop.

    start  end  +10  -10  5  @2026-01-31T12:00  @-1h  @1700000000000      a position
    5:20  start:end  -10:  @-1h:  @2026-01-01T00:00:2026-01-02T00:00      a range, whose stop is exclusive

It is pure, and knows no broker.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from takhin import units
from takhin.client import END, START, Position, Span
from takhin.client.model import EPOCH
from takhin.model import INT64_MAX

ENDS = {"start": START, "end": END}

FORMS = "start, end, an offset, +N (N offsets after the start), -N (before the end), @TIME or @-1h"
RANGE_FORMS = f"{FORMS}, or two of them with a : between"


def parse(text: str, now: datetime) -> Span:
    """Parse a position or a range. now: an aware time, from which `@-1h` counts back.

    Raises ValueError with a sentence.
    """
    found = _span(text, now)
    if found is None:
        raise ValueError(f"{text!r} is not a position in a log; {_meant(text, now)}give {RANGE_FORMS}")
    return found


def parse_single(text: str, now: datetime) -> Position:
    """Parse a position where a range will not do. Raises ValueError with a sentence."""
    found = _position(text, now)
    if found is None and _span(text, now) is not None:
        raise ValueError(f"{text!r} is a range; give a single position here")
    if found is None:
        raise ValueError(f"{text!r} is not a position in a log; {_meant(text, now)}give {FORMS}")
    return found


def _meant(text: str, now: datetime) -> str:
    """The question whether a time was meant, if its @ is all that is missing."""
    return "" if _span(f"@{text}", now) is None else f"did you mean @{text}? Else "


def _span(text: str, now: datetime) -> Span | None:
    whole = _position(text, now)
    if whole is not None:
        return Span(whole)
    for colon in (at for at, character in enumerate(text) if character == ":"):  # times contain colons, too
        left, right = text[:colon], text[colon + 1 :]
        start = _position(left, now) if left else START
        if right and left.startswith("@") and not right.startswith("@") and right not in ("start", "end"):
            right = f"@{right}"
        stop = _position(right, now) if right else END
        if start is not None and stop is not None:
            return Span(start, stop)
    return None


def _position(text: str, now: datetime) -> Position | None:
    if text in ENDS:
        return ENDS[text]
    if re.fullmatch(r"[+-]?[0-9]{1,19}", text) and abs(int(text)) <= INT64_MAX:
        number = int(text)
        return {"+": START + number, "-": END + number}.get(text[0], number)
    if text.startswith("@"):
        return _time(text[1:], now)
    return None


def _time(text: str, now: datetime) -> datetime | None:
    """Parse a time; None if it is not one. A time before 1970 counts as 1970, since no record is older."""
    try:
        if text.startswith("-") and (ago_ms := units.milliseconds(text[1:])) is not None:
            moment = now - timedelta(milliseconds=ago_ms)
        elif re.fullmatch(r"[0-9]{10}", text):  # seconds since 1970, from 2001 to 2286
            moment = EPOCH + timedelta(seconds=int(text))
        elif re.fullmatch(r"[0-9]{13}", text):  # milliseconds
            moment = EPOCH + timedelta(milliseconds=int(text))
        else:
            moment = datetime.fromisoformat(text).astimezone()  # local time if it names no zone
    except OverflowError:
        return EPOCH if text.startswith("-") else None
    except ValueError:
        return None
    return max(moment, EPOCH)
