"""Prints the records that `takhin consume` has read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO

from takhin.cli import templates
from takhin.client import Record


class FullError(Exception):
    """Raised when --max-records have been printed."""


@dataclass(slots=True)
class Output:
    """Prints records to `stream`. left: how many more may be printed; None for any number."""

    stream: IO[bytes]
    line: templates.Piece
    left: int | None

    def write(self, records: Iterable[Record]) -> None:
        """Print records at once; raises FullError after the last one wanted."""
        wanted = list(records)[: self.left]
        self.stream.write(b"".join([self.line(record) for record in wanted]))
        self.stream.flush()
        if self.left is not None:
            self.left -= len(wanted)
            if self.left == 0:
                raise FullError
