"""Records as JSON lines: what `takhin consume --json` prints and `takhin produce --json` takes.

    {"topic": "orders", "partition": 0, "offset": 7, "timestamp": 1767225600000,
     "key": "k", "value": {"base64": "/w=="}, "headers": [{"key": "h", "value": ""}]}

(one line, broken here.) Keys and values are text where they are UTF-8, {"base64": …} where they are not, null
where there is none. Bytes come back as they were: both forms are read, whichever the bytes would have had.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from takhin.client import Header, NewRecord, Record
from takhin.json_bytes import json_bytes
from takhin.limits import INT64_MAX

FIELDS = ("topic", "partition", "offset", "timestamp", "key", "value", "headers")
"""topic, partition and offset say where a record was; they are not looked at when it is produced anew."""

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


class NoRecordError(ValueError):
    """A line that is none, in a sentence that begins with "it" or names the field."""


def line(record: Record) -> bytes:
    """A record as a line, with its newline."""
    return (
        _encode(
            {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "key": _shown(record.key),
                "value": _shown(record.value),
                "headers": [{"key": key, "value": _shown(value)} for key, value in record.headers],
            }
        ).encode()
        + b"\n"
    )


def parse(text: bytes) -> tuple[NewRecord, int | None]:
    """The record of a line, and the partition that it names. Raises NoRecordError.

    Only `value` must be there. Without a timestamp, and with null, the broker's clock says it.
    """
    try:
        found = json.loads(text, object_pairs_hook=_fields)
    except RecursionError:
        raise NoRecordError("it is nested too deeply") from None
    except ValueError as error:  # of JSON, of UTF-8, or ours
        raise NoRecordError(f"it is no JSON object of a record: {error}") from None
    if not isinstance(found, dict):
        raise NoRecordError(f"it is no JSON object but {_named(found)}")
    if unknown := sorted(found.keys() - set(FIELDS)):
        raise NoRecordError(f"it has a field {unknown[0]!r}; there are {', '.join(FIELDS)}")
    if "value" not in found:
        raise NoRecordError("it has no value; null stands for none")
    record = NewRecord(
        value=_bytes("value", found["value"]),
        key=_bytes("key", found.get("key")),
        headers=_headers(found.get("headers")),
        timestamp=_number("timestamp", found.get("timestamp")),
    )
    return record, _number("partition", found.get("partition"))


def _shown(raw: bytes | None) -> str | dict[str, str] | None:
    return None if raw is None else json_bytes(raw)


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NoRecordError(f"the field {twice!r} is there twice")
    return found


def _bytes(name: str, given: object) -> bytes | None:
    if given is None:
        return None
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError:
            raise NoRecordError(f"{name} has half a surrogate pair, which no UTF-8 stands for") from None
    if isinstance(given, dict) and given.keys() == {"base64"} and isinstance(given["base64"], str):
        try:
            return base64.b64decode(given["base64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise NoRecordError(f"{name} is no base64: {error}") from None
    raise NoRecordError(f'{name} is text, {{"base64": …}} or null, not {_named(given)}')


def _number(name: str, given: object) -> int | None:
    if given is None:
        return None
    if type(given) is not int or not 0 <= given <= INT64_MAX:  # a bool is no number
        raise NoRecordError(f"{name} is a number from 0, not {_named(given)}")
    return given


def _headers(given: object) -> Sequence[Header]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise NoRecordError(f'headers are a list of {{"key": …, "value": …}}, not {_named(given)}')
    return [_header(each) for each in given]


def _header(given: object) -> Header:
    if not isinstance(given, dict) or given.keys() != {"key", "value"} or not isinstance(given["key"], str):
        raise NoRecordError(f'a header is {{"key": "text", "value": …}}, not {_named(given)}')
    _bytes("a header's key", given["key"])
    value = _bytes("a header's value", given["value"])
    if value is None:
        raise NoRecordError(f"the header {given['key']!r} has the value null; headers always have one")
    return Header(given["key"], value)


def _named(given: object) -> str:
    """As it was written, shortened."""
    shown = json.dumps(given, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
