"""A damaged file's bytes, repaired where it is certain, or accepted where there are reasons to.

Works on a closed copy. A page that does not match its checksum is not accepted, with these exceptions, and
only if the structure of the whole file is sound without regard to checksums: all pages of a file in which no
page has a checksum, because another program has rewritten it (VACUUM); pages that hold no records and only
lead to them; and all pages, if somebody says that another program has changed the file.

Knows the form of a page, no table and no folder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

import apsw

from takhin.disk import statements as sql
from takhin.disk.beside import damaged_pages
from takhin.disk.connection import open_unverified
from takhin.schema import APPLICATION_ID, PAGE_BYTES, VERSION
from takhin.schema.checksums import RESERVED_BYTES, SINCE_VERSION, load

HEADER = {
    0: b"SQLite format 3\0" + PAGE_BYTES.to_bytes(2, "big") + b"\2\2" + bytes([RESERVED_BYTES, 64, 32, 32]),
    56: (1).to_bytes(4, "big"),  # UTF-8
    68: APPLICATION_ID.to_bytes(4, "big"),
}
"""By position, the bytes of a header that are the same in all files with checksums."""
VERSION_AT = slice(60, 64)
"""Where the user_version is."""
OF_ITS_OWN = (slice(24, 40), slice(92, 100), slice(-RESERVED_BYTES, None))
"""What differs from file to file: counters, sizes, free pages, and the checksum."""

NO_PAGE = b"\xff" * PAGE_BYTES
"""Stands for a page that is gone: its checksum does not match, while one of zeros would."""

ZEROED = bytes(PAGE_BYTES)

INTERIOR = (0x02, 0x05)
"""First byte of a page without rows, which only leads to pages with rows (sqlite.org/fileformat2.html)."""
LEAVES = (0x0A, 0x0D)
"""First byte of a page with rows."""


def mend_header(path: Path, template: Path | None = None) -> bool:
    """Restore in a closed copy what the first page of every Takhin file has, and the length noted there.

    template: a file without records that has the same tables and views. True if the page then matches its
    checksum, so that the damage there is repaired. Files of schema version 1 have no checksums and are left
    as they are.
    """
    size_bytes = path.stat().st_size
    with path.open("r+b") as file:
        found = file.read(PAGE_BYTES)
        if len(found) < PAGE_BYTES or (found[63], found[20]) == (1, 0):
            return True
        matching = [page for page in _first_pages(found, size_bytes, template) if _matches(page)]
        page = matching[0] if matching else next(_first_pages(found, size_bytes, None))
        file.seek(0)
        file.write(page)
        said_bytes = int.from_bytes(page[28:32], "big") * PAGE_BYTES
        if matching:  # SQLite reads no file that is cut short
            _fill_up(file, said_bytes)
    return bool(matching)


def lend_first_page(path: Path, template: Path) -> None:
    """Put the template's first page into a closed copy whose own one cannot be repaired.

    The first page differs between schema versions, but each table of the first one begins at the same page in
    all of them. So the pages of the records are found, and those have checksums of their own. A table of a
    later version may begin behind the end of the file, which SQLite refuses: so there are pages then.
    """
    with path.open("r+b") as file:
        page = _of_template(template, file.read(PAGE_BYTES))
        pages = max(path.stat().st_size, template.stat().st_size) // PAGE_BYTES
        _fill_up(file, pages * PAGE_BYTES)
        page[28:32] = pages.to_bytes(4, "big")
        file.seek(0)
        file.write(page[:-RESERVED_BYTES] + checksum(page[:-RESERVED_BYTES]))


def _fill_up(file: BinaryIO, size_bytes: int) -> None:
    """Lengthen a file by pages that are gone."""
    file.writelines(
        NO_PAGE[: size_bytes - at] for at in range(file.seek(0, SEEK_END), size_bytes, PAGE_BYTES)
    )


def _first_pages(found: bytes, size_bytes: int, template: Path | None) -> Iterator[bytes]:
    """What the first page may have been, the likeliest first, each with the checksum that was found on it."""
    pages = []
    for version in sorted(range(SINCE_VERSION, VERSION + 1), key=lambda version: version != found[63]):
        page = bytearray(found)
        for start, said in HEADER.items():
            page[start : start + len(said)] = said
        page[VERSION_AT] = version.to_bytes(4, "big")
        pages.append(page)
    if template is not None:
        pages.append(_of_template(template, found))
    yield from map(bytes, pages)
    for page in pages:
        page[28:32] = (size_bytes // PAGE_BYTES).to_bytes(4, "big")
        yield bytes(page)


def _of_template(template: Path, found: bytes) -> bytearray:
    with template.open("rb") as file:
        page = bytearray(file.read(PAGE_BYTES))
    for at in OF_ITS_OWN:
        page[at] = found[at]
    return page


def _matches(page: bytes) -> bool:
    return checksum(page[:-RESERVED_BYTES]) == page[-RESERVED_BYTES:]


def checksum(content: bytes | bytearray) -> bytes:
    """The checksum of a page's other bytes, as cksumvfs computes it (sqlite.org/cksumvfs.html)."""
    words = struct.unpack(f"<{len(content) // 4}I", content)
    one = two = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = (one + even + two) & 0xFFFFFFFF
        two = (two + odd + one) & 0xFFFFFFFF
    return struct.pack("<II", one, two)


def take_in_wal(path: Path) -> None:
    """Copy a file's write-ahead log into it, whatever the pages' checksums say. Raises apsw.Error."""
    connection = open_unverified(path)
    try:
        connection.execute(sql.TOUCH).fetchall()  # SQLite looks for a log at the first read
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        connection.close()


def mend_empty_tables(path: Path) -> None:
    """Restore in a closed copy the damaged pages of tables that have never had a row. Raises apsw.Error.

    Such a page differs from no other one of its kind, so its checksum says that it is one.
    """
    usable = PAGE_BYTES - RESERVED_BYTES
    heads = (bytes([kind]) + bytes(4) + usable.to_bytes(2, "big") + b"\0" for kind in LEAVES)
    empty = {checksum(page): page for page in (head.ljust(usable, b"\0") for head in heads)}
    damaged = damaged_pages(path)
    with path.open("r+b") as file:
        for number in damaged:
            file.seek((number - 1) * PAGE_BYTES)
            page = file.read(PAGE_BYTES)
            for sums, content in empty.items():
                # A page without a checksum has been written by another program, see above.
                if sums == page[usable:] or (content == page[:usable] and any(page[usable:])):
                    file.seek((number - 1) * PAGE_BYTES)
                    file.write(content + sums)


def hide_zeroed_pages(path: Path) -> None:
    """Make pages of zeros unreadable in a closed copy: their checksum is right, but nobody has written them.

    A value may end with a page of zeros of its own, and is given up then: the two cannot be told apart.
    """
    with path.open("r+b") as file:
        number = 0
        while len(page := file.read(PAGE_BYTES)) == PAGE_BYTES:
            if not any(page):
                file.seek(number * PAGE_BYTES)
                file.write(NO_PAGE)
            number += 1


def has_zeroed_page(path: Path) -> bool:
    """True if a page of a closed file is all zeros: lost, or free, or the end of a value of zeros."""
    with path.open("rb") as file:
        while some := file.read(64 * PAGE_BYTES):
            if any(not some[at] and some.startswith(ZEROED, at) for at in range(0, len(some), PAGE_BYTES)):
                return True
    return False


def move_roots(path: Path, roots: Mapping[str, int]) -> None:
    """Say in a closed copy at which pages some tables begin. Raises apsw.Error."""
    connection = open_unverified(path)
    try:
        connection.pragma("writable_schema", 1)
        connection.executemany(sql.MOVE_ROOT, [(root, table) for table, root in roots.items()])
    finally:
        connection.close()
    take_in_wal(path)


def trust_pages(path: Path, *, changed: bool) -> bool:
    """Give new checksums to damaged pages that are accepted, see above. True if no damaged one is left.

    path: a closed copy without a write-ahead log. changed: another program has changed the file.
    """
    damaged = damaged_pages(path)
    if not damaged or not _sound(path):
        return not damaged
    load()
    flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0]
    plain = apsw.VFSFile("unix", str(path), list(flags))
    checked = apsw.VFSFile("cksmvfs", str(path), list(flags))
    try:
        checked.xRead(100, 0)  # the VFS learns from the header that the file has checksums
        pages = {number: plain.xRead(PAGE_BYTES, (number - 1) * PAGE_BYTES) for number in damaged}
        none_has_one = len(damaged) == plain.xFileSize() // PAGE_BYTES and not any(
            any(page[-RESERVED_BYTES:]) for page in pages.values()
        )
        trusted = [
            number
            for number, page in pages.items()
            if changed or none_has_one or number == 1 or page[0] in INTERIOR
        ]
        for number in trusted:
            checked.xWrite(pages[number], (number - 1) * PAGE_BYTES)
    finally:
        checked.xClose()
        plain.xClose()
    return len(trusted) == len(damaged)


def _sound(path: Path) -> bool:
    """True if the structure of the file is whole without regard to checksums."""
    try:
        connection = open_unverified(path)
        try:
            return connection.execute(sql.STRUCTURE).fetchall() == [("ok",)]
        finally:
            connection.close()
    except apsw.Error:
        return False
