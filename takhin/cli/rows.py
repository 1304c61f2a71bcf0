"""Prints rows: a table for people, CSV or JSON lines for programs. It holds 1,000 rows at a time."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import click

from takhin.json_bytes import json_base64

Row = Sequence[Any]

TABLE_ROWS = 1_000
"""Rows of one table. The rows after them get titles and widths of their own, so that memory is bounded."""

CRLF = "\r\n"

GAP = 2
"""Spaces between columns."""
CELL_WIDTH_MIN = 8
"""Characters below which no column is made narrower."""

ESCAPED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
"""Escapes for control characters, which a terminal would obey, and for what ends a line in Unicode."""


def print_table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Print columns under their names, numbers to the right. On a terminal, long cells are cut to fit."""
    # rich takes a tenth of a second to import
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    line_width = Console().width if sys.stdout.isatty() else None
    left = iter(rows)
    page = list(islice(left, TABLE_ROWS))
    while True:
        titles = [Text(_cell(name)) for name in columns]
        cells = [[Text("NULL", "dim") if cell is None else Text(_cell(cell)) for cell in row] for row in page]
        widths = _widths([[text.cell_len for text in row] for row in (titles, *cells)], line_width)
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for at, title in enumerate(titles):
            justify: Literal["left", "right"] = "right" if _all_numbers(page, at) else "left"
            table.add_column(title, justify=justify, width=widths[at], no_wrap=True)
        for row in cells:
            table.add_row(*row)
        console = Console(width=sum(widths) + GAP * len(widths))
        with console.capture() as captured:
            console.print(table)
        for line in captured.get().splitlines():
            click.echo(line.rstrip())
        page = list(islice(left, TABLE_ROWS))
        if not page:
            return
        click.echo()


def _widths(widths: Sequence[Sequence[int]], line_width: int | None) -> list[int]:
    """The width of each column, from those of its cells; the widest ones are cut if the line is too short.

    line_width: None for any.
    """
    found = [max(column) for column in zip(*widths, strict=True)]
    if line_width is None:
        return found
    room = line_width - GAP * (len(found) - 1)
    caps = range(room, CELL_WIDTH_MIN, -1)
    cap = next((cap for cap in caps if sum(min(width, cap) for width in found) <= room), CELL_WIDTH_MIN)
    return [min(width, cap) for width in found]


def print_csv(columns: Sequence[str], rows: Iterator[Row]) -> None:
    """Print RFC 4180 with the names in the first line; NULL is empty, a BLOB is as in the table."""
    # The writer quotes cells with any character that is in the end of its lines.
    out = csv.writer(_Lines(), lineterminator=CRLF)
    out.writerow(columns)
    out.writerows([_literal(cell) if isinstance(cell, bytes) else cell for cell in row] for row in rows)


class _Lines:
    """What a csv.writer writes to: it ends each row with a newline alone."""

    def write(self, row: str) -> None:
        sys.stdout.write(f"{row.removesuffix(CRLF)}\n")


def print_json_lines(columns: Sequence[str], rows: Iterator[Row]) -> None:
    """Print an object per line; a BLOB is {"base64": …}, an infinite number the string "Infinity"."""
    for name in columns:
        if columns.count(name) > 1:
            raise click.ClickException(f"two columns are named {name!r}: name one of them with AS")
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False).encode
    for row in rows:
        print(encode(dict(zip(columns, map(_json, row), strict=True))))


def _all_numbers(rows: Sequence[Row], at: int) -> bool:
    return bool(rows) and all(isinstance(row[at], int | float | None) for row in rows)


def _cell(cell: Any) -> str:
    return _literal(cell) if isinstance(cell, bytes) else str(cell).translate(ESCAPED)


def _literal(blob: bytes) -> str:
    """A BLOB as a literal of SQL."""
    return f"x'{blob.hex()}'"


def _json(cell: Any) -> Any:
    if isinstance(cell, bytes):
        return json_base64(cell)
    if isinstance(cell, float) and math.isinf(cell):
        return "Infinity" if cell > 0 else "-Infinity"
    return cell
