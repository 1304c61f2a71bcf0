r"""Output templates: `takhin consume -f '%o %k %v\n'`.

    %t topic   %p partition   %o offset   %d timestamp, ms since 1970, or %d{iso} in UTC
    %k key   %v value   %h headers as k=v,…   and %k{hex} %k{base64}, also of %v and %h
    %K %V length of key and value in bytes, -1 if there is none   %H number of headers   %% a percent sign
    \n \t \r \0 \\ \xHH bytes

All other text is printed as it is; no newline is added. Keys and values are printed as their bytes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from takhin.client import Record

Piece = Callable[[Record], bytes]
Bytes = Callable[[bytes], bytes]

ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}
FORMS: dict[str, Bytes] = {"hex": lambda raw: raw.hex().encode(), "base64": base64.b64encode}
TOKEN = re.compile(
    r"%(?P<verb>[a-zA-Z])(?:\{(?P<form>[^{}]*)\})?"
    r"|(?P<percent>%%)"
    r"|\\x(?P<hex>[0-9a-fA-F]{2})"
    r"|\\(?P<escape>[ntr0\\])"
    r"|(?P<plain>[^%\\]+)",
    re.DOTALL,
)

ESCAPED = re.compile(r"([^\\]+)|\\([ntr0\\])|\\x([0-9a-fA-F]{2})|(\\x?.{0,2})", re.DOTALL)


def unescaped(text: str) -> bytes:
    """The bytes of a text in which only escapes have a meaning. Raises ValueError at an unknown one."""
    found: list[bytes] = []
    for plain, escape, number, unknown in ESCAPED.findall(text):
        if unknown:
            raise ValueError(f"{unknown!r} is no escape; the escapes are \\n \\t \\r \\0 \\\\ \\xHH")
        found.append(plain.encode() or ESCAPES.get(escape) or bytes.fromhex(number))
    return b"".join(found)


def compiled(template: str, *, null: bytes = b"") -> Piece:
    """Return the function that formats a record by a template. Raises ValueError at what it does not know.

    null: what stands for a key or value that is absent.
    """
    pieces: list[Piece] = []
    at = 0
    while at < len(template):
        token = TOKEN.match(template, at)
        if token is None:
            raise ValueError(f"{template[at : at + 2]!r} at {at} is neither a verb nor an escape; see --help")
        pieces.append(_piece(token, null))
        at = token.end()
    return lambda record: b"".join([piece(record) for piece in pieces])


def _piece(token: re.Match[str], null: bytes) -> Piece:
    if token["verb"]:
        return _verb(token["verb"], token["form"], null)
    if token["hex"]:
        raw = bytes.fromhex(token["hex"])
    elif token["escape"]:
        raw = ESCAPES[token["escape"]]
    else:
        raw = b"%" if token["percent"] else token["plain"].encode()
    return lambda _: raw


NUMBERS: dict[str, Callable[[Record], int]] = {
    "p": lambda record: record.partition,
    "o": lambda record: record.offset,
    "d": lambda record: record.timestamp,
    "K": lambda record: -1 if record.key is None else len(record.key),
    "V": lambda record: -1 if record.value is None else len(record.value),
    "H": lambda record: len(record.headers),
}
RAW: dict[str, Callable[[Record, Bytes], bytes | None]] = {
    "k": lambda record, form: None if record.key is None else form(record.key),
    "v": lambda record, form: None if record.value is None else form(record.value),
    "h": lambda record, form: b",".join([key.encode() + b"=" + form(value) for key, value in record.headers]),
}


def _verb(verb: str, form: str | None, null: bytes) -> Piece:
    if verb == "t" and form is None:
        return lambda record: record.topic.encode()
    if verb in NUMBERS and form is None:
        number = NUMBERS[verb]
        return lambda record: b"%d" % number(record)
    if verb == "d" and form == "iso":
        return lambda record: record.time.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
    if verb in RAW and (form is None or form in FORMS):
        raw, shape = RAW[verb], FORMS.get(form or "", bytes)
        return lambda record: null if (shown := raw(record, shape)) is None else shown
    if form is not None and verb in {"t", *NUMBERS, *RAW}:
        raise ValueError(f"%{verb} has no form {form!r}; %k, %v and %h have hex and base64, %d has iso")
    raise ValueError(
        f"there is no verb %{verb}; the verbs are %t, {', '.join(f'%{v}' for v in (*NUMBERS, *RAW))}"
    )
