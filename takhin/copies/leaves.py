"""The pages of a damaged file on which records are, found without the pages that lead to them.

A table is a tree: its root and the pages below only lead to its leaves, which have the rows. Where those are
damaged, the leaves are still whole, with checksums of their own. So they are found by looking at every page,
and the file is given a new root that leads to some of them; SQLite then reads them as it always does.

Works on a closed copy. Knows the form of a page (sqlite.org/fileformat2.html), and how a row of `records`
differs from those of the other tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os import SEEK_END
from pathlib import Path
from struct import iter_unpack
from typing import BinaryIO, NamedTuple

from takhin.copies.mending import checksum
from takhin.disk.beside import damaged_pages
from takhin.schema import PAGE_BYTES
from takhin.schema.checksums import RESERVED_BYTES

LEAF = 0x0D
INTERIOR = 0x05
LEAF_HEAD_BYTES = 8
INTERIOR_HEAD_BYTES = 12
FIRST_TRUNK_AT = 32
"""Where the first page of a file names the first page of the list of free pages."""
LEAVES_MAX = 1_000
"""Leaves below one root: each takes at most 15 bytes of it."""

NULL = 0
WHOLE_NUMBERS = (1, 2, 3, 4, 5, 6, 8, 9)
"""Serial types of a column."""
BLOB_MIN = 12


class Leaf(NamedTuple):
    """A page with the records from `first` to `last`."""

    first: int
    last: int
    page: int


def record_leaves(path: Path) -> list[Leaf]:
    """The whole pages of the file that have records, by their first one. Raises apsw.Error, OSError.

    Pages that the file names as free are left out: they may have records that were trimmed or superseded.
    """
    damaged = set(damaged_pages(path))
    found = []
    with path.open("rb") as file:
        damaged |= _free_pages(file, damaged)
        file.seek(0)
        number = 1
        while len(page := file.read(PAGE_BYTES)) == PAGE_BYTES:
            if number not in damaged and page[0] == LEAF and (bounds := _bounds(page)) is not None:
                found.append(Leaf(*bounds, number))
            number += 1
    return sorted(found)


def _free_pages(file: BinaryIO, damaged: set[int]) -> set[int]:
    """The pages of the list of free pages, as far as its own pages are whole."""
    free: set[int] = set()
    pages = file.seek(0, SEEK_END) // PAGE_BYTES
    trunk = 1
    at = FIRST_TRUNK_AT
    while trunk not in damaged and trunk <= pages:
        file.seek((trunk - 1) * PAGE_BYTES)
        page = file.read(PAGE_BYTES)
        if trunk > 1:
            leaves = int.from_bytes(page[4:8], "big")
            free.update(number for (number,) in iter_unpack(">I", page[8 : min(8 + 4 * leaves, PAGE_BYTES)]))
        trunk = int.from_bytes(page[at : at + 4], "big")
        at = 0
        if trunk == 0 or trunk in free:
            break
        free.add(trunk)
    return free


def roots(leaves: Iterable[Leaf]) -> Iterator[Sequence[Leaf]]:
    """Leaves that fit below one root, again and again: they do not overlap, as stale ones may."""
    left = list(leaves)
    while left:
        fitting: list[Leaf] = []
        rest: list[Leaf] = []
        for leaf in left:
            fits = len(fitting) < LEAVES_MAX and (not fitting or leaf.first > fitting[-1].last)
            (fitting if fits else rest).append(leaf)
        yield fitting
        left = rest


def lend_root(path: Path, root: int, leaves: Sequence[Leaf]) -> None:
    """Make page `root` of a closed copy lead to these leaves and to nothing else.

    A single leaf is copied there itself: a root without rows between its children is none for SQLite.
    """
    with path.open("r+b") as file:
        file.seek((leaves[0].page - 1) * PAGE_BYTES)
        page = file.read(PAGE_BYTES) if len(leaves) == 1 else _interior(leaves)
        file.seek((root - 1) * PAGE_BYTES)
        file.write(page)


def _interior(leaves: Sequence[Leaf]) -> bytes:
    """A page that leads to these leaves."""
    usable = PAGE_BYTES - RESERVED_BYTES
    page = bytearray(usable)
    at = usable
    for number, leaf in enumerate(leaves[:-1]):
        cell = leaf.page.to_bytes(4, "big") + _written_varint(leaf.last)
        at -= len(cell)
        page[at : at + len(cell)] = cell
        pointer = INTERIOR_HEAD_BYTES + 2 * number
        page[pointer : pointer + 2] = at.to_bytes(2, "big")
    page[0] = INTERIOR
    page[3:5] = (len(leaves) - 1).to_bytes(2, "big")
    page[5:7] = at.to_bytes(2, "big")
    page[8:12] = leaves[-1].page.to_bytes(4, "big")
    return bytes(page + checksum(page))


def _bounds(page: bytes) -> tuple[int, int] | None:
    """(first, last) offset on a leaf of the table `records`; None for a leaf of another table."""
    rows = int.from_bytes(page[3:5], "big")
    try:
        first, last = (_offset(page, LEAF_HEAD_BYTES + 2 * row) for row in (0, rows - 1))
    except (IndexError, ValueError):
        return None
    return (first, last) if rows and 0 <= first <= last else None


def _offset(page: bytes, pointer: int) -> int:
    """The offset of the record to which the pointer at `pointer` leads. Raises ValueError if it is none."""
    at = int.from_bytes(page[pointer : pointer + 2], "big")
    _, at = _varint(page, at)
    offset, at = _varint(page, at)
    begin = at
    head_bytes, at = _varint(page, at)
    types = []
    while at < begin + head_bytes:
        type_, at = _varint(page, at)
        types.append(type_)
    if len(types) != 4:
        raise ValueError
    own, timestamp, *contents = types
    if own != NULL or timestamp not in WHOLE_NUMBERS:
        raise ValueError
    if any(type_ != NULL and (type_ < BLOB_MIN or type_ % 2) for type_ in contents):
        raise ValueError
    return offset


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """(the number that begins at `at`, where it ends)."""
    value = 0
    for byte in page[at : at + 8]:
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | page[at], at + 1


def _written_varint(value: int) -> bytes:
    """A number below 2**56."""
    written = [value & 0x7F]
    while value := value >> 7:
        written.append(value & 0x7F | 0x80)
    return bytes(reversed(written))
