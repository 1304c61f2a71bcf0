"""Records as JSON lines: what `takhin consume --json` prints and `takhin produce --json` takes.

    {"topic": "orders", "partition": 0, "offset": 7, "timestamp": 1767225600000,
     "key": "k", "value": {"base64": "/w=="}, "headers": [{"key": "h", "value": ""}]}

(This is one line, broken here.) A key or value is text if it is UTF-8, {"base64": …} if it is not, and null
if there is none. Bytes are read back exactly; UTF-8 may be given as base64, too.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from takhin.client import Header, NewRecord, Record
from takhin.json_bytes import json_bytes
from takhin.model import INT64_MAX

FIELDS = ("topic", "partition", "offset", "timestamp", "key", "value", "headers")
"""topic, partition and offset say where the record was. Producing ignores them, unless told otherwise."""

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


class NotARecordError(ValueError):
    """A line is not a record. The sentence calls the line "it", or names a field."""


def line(record: Record) -> bytes:
    """Return a record as a line of JSON, with its newline."""
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
    """Return the record of a line, and the partition that it names. Raises NotARecordError.

    Only `value` is required. If the timestamp is missing or null, the broker sets it.
    """
    try:
        found = json.loads(text, object_pairs_hook=_fields)
    except RecursionError:
        raise NotARecordError("it is nested too deeply") from None
    except ValueError as error:  # of JSON, of UTF-8, or ours
        raise NotARecordError(f"it is not a record in JSON: {error}") from None
    if not isinstance(found, dict):
        raise NotARecordError(f"it is not a JSON object but {_named(found)}")
    if unknown := sorted(found.keys() - set(FIELDS)):
        raise NotARecordError(f"it has an unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}")
    if "value" not in found:
        raise NotARecordError("it has no value; give null for a record without one")
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
        raise NotARecordError(f"the field {twice!r} is given twice")
    return found


def _bytes(name: str, given: object) -> bytes | None:
    if given is None:
        return None
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError:
            raise NotARecordError(f"{name} has half of a surrogate pair, which UTF-8 cannot encode") from None
    if isinstance(given, dict) and given.keys() == {"base64"} and isinstance(given["base64"], str):
        try:
            return base64.b64decode(given["base64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise NotARecordError(f"{name} is not valid base64: {error}") from None
    raise NotARecordError(f'{name} must be text, {{"base64": …}} or null, not {_named(given)}')


def _number(name: str, given: object) -> int | None:
    if given is None:
        return None
    if type(given) is not int or not 0 <= given <= INT64_MAX:  # a bool is an int in Python
        raise NotARecordError(f"{name} must be a whole number from 0, not {_named(given)}")
    return given


def _headers(given: object) -> Sequence[Header]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise NotARecordError(f'headers must be a list of {{"key": …, "value": …}}, not {_named(given)}')
    return [_header(each) for each in given]


def _header(given: object) -> Header:
    if not isinstance(given, dict) or given.keys() != {"key", "value"} or not isinstance(given["key"], str):
        raise NotARecordError(f'a header must be {{"key": "text", "value": …}}, not {_named(given)}')
    _bytes("a header's key", given["key"])
    value = _bytes("a header's value", given["value"])
    if value is None:
        raise NotARecordError(f"the header {given['key']!r} has the value null; a header must have a value")
    return Header(given["key"], value)


def _named(given: object) -> str:
    """A value as it was written, shortened."""
    shown = json.dumps(given, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
