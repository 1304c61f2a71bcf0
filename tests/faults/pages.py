"""The pages of a closed partition file by what they are for, and a way to lose one."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import apsw
from takhin.schema import PAGE_BYTES
from takhin.schema.checksums import load

URI = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
PAGES = "SELECT name, pagetype, pageno, payload FROM dbstat ORDER BY pageno"


class Page(NamedTuple):
    """A page of a table (sqlite.org/dbstat.html). number: the first is 1. payload: bytes of rows on it."""

    table: str
    kind: str
    number: int
    payload: int


def pages_of(path: Path) -> list[Page]:
    """All pages of all tables. Overflow pages are "middle" ones and the "last" of their row."""
    load()
    with closing(apsw.Connection(f"file:{path}?immutable=1", flags=URI)) as db:
        content = path.read_bytes()
        return [
            Page(table, _kind(content, kind, number), number, payload)
            for table, kind, number, payload in db.execute(PAGES)
        ]


def _kind(content: bytes, kind: str, number: int) -> str:
    if kind != "overflow":
        return kind
    at = (number - 1) * PAGE_BYTES
    return "middle" if any(content[at : at + 4]) else "last"


def zero(path: Path, number: int) -> None:
    """Lose a page: zeros are in its place, whose checksum is zero."""
    with path.open("r+b") as file:
        file.seek((number - 1) * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
