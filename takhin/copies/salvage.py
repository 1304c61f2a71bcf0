"""What can be read of a damaged file, and a new file made of it.

Works on a copy. A page that does not match its checksum is not believed, with these exceptions, and only if
the structure of the whole file is sound without looking at checksums: all pages of a file none of which has a
checksum, since another program wrote it anew (VACUUM); pages that hold no records, but lead to them; and
all, if somebody says that another program changed the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import apsw

from takhin import topic_configs
from takhin.copies.checking import PRODUCERS_SINCE
from takhin.disk import versions
from takhin.disk.beside import DamagedError, Log, damaged_pages, num_partitions, read_log
from takhin.disk.connection import close_whole, open_writer
from takhin.disk.header import file_header
from takhin.schema import APPLICATION_ID, PAGE_BYTES, VERSION
from takhin.schema.checksums import RESERVED_BYTES, SINCE_VERSION, load
from takhin.settings import Settings

CHUNK = 4_096
"""Offsets that are tried at once."""
PROBES = 64
"""Places that are tried before each offset is."""

HEADER = {
    0: b"SQLite format 3\0" + PAGE_BYTES.to_bytes(2, "big") + b"\2\2" + bytes([RESERVED_BYTES, 64, 32, 32]),
    56: (1).to_bytes(4, "big"),  # UTF-8
    68: APPLICATION_ID.to_bytes(4, "big"),
}
"""What every file with checksums says in its first bytes."""
VERSION_AT = slice(60, 64)
"""Where it says its user_version."""
OF_ITS_OWN = (slice(24, 40), slice(92, 100), slice(-RESERVED_BYTES, None))
"""What differs from file to file: counters, sizes, free pages, and the checksum."""

NO_PAGE = b"\xff" * PAGE_BYTES
"""Stands for a page that is gone: no checksum matches it, which zeros would."""

INTERIOR = (0x02, 0x05)
"""First byte of a page that holds no rows, only the way to them (sqlite.org/fileformat2.html)."""

ROWS = (
    "SELECT offset, timestamp, key, value FROM old.records WHERE offset >= ? AND offset < ? ORDER BY offset"
)
HEADERS = "SELECT offset, key, value FROM old.headers WHERE offset >= ? AND offset < ?"
HIGHEST = "SELECT max(offset) FROM old.records"
COPY = tuple(
    f"INSERT INTO {table} ({columns}) SELECT {columns} FROM old.{table} WHERE offset >= ? AND offset < ?"
    for table, columns in (
        ("records", "offset, timestamp, key, value"),
        ("headers", "offset, position, key, value"),
    )
)
COPY_TIMES = (
    "INSERT INTO time_index SELECT timestamp, offset FROM old.time_index WHERE offset >= ? AND offset <= ?"
)
COPY_COMMITTED = (
    "INSERT INTO committed_offsets SELECT group_id, max(?1, min(?2, offset)), metadata, committed_at "
    "FROM old.committed_offsets"
)
COPY_PRODUCERS = (
    "INSERT INTO producer_batches (producer_id, slot, sequence, record_count, offset, timestamp) "
    "SELECT producer_id, slot, sequence, record_count, offset, timestamp FROM old.producer_batches "
    "WHERE offset + record_count <= ?"
)
"""What was lost, if only in part, may be sent again."""
COPY_CONFIGS = "INSERT INTO topic_configs SELECT key, value FROM old.topic_configs"
PUT_CONFIG = "INSERT INTO topic_configs (key, value) VALUES (?, ?)"
PUT_TOPIC = "INSERT INTO topic (id, num_partitions) VALUES (0, ?)"
PUT_LOG = (
    "INSERT INTO log (id, topic, partition, topic_id, incarnation_id, start_offset, end_offset, created_at, "
    "commits) VALUES (0, ?, ?, ?, ?, ?, ?, unixepoch() * 1000, ?)"
)


class Run(NamedTuple):
    """Offsets [start, end)."""

    start: int
    end: int


class Expected(NamedTuple):
    """What is known of the log from elsewhere, where the file itself cannot be read."""

    log: Log
    num_partitions: int
    """Partition 0 says it."""


def mend_header(path: Path, template: Path | None = None) -> bool:
    """Give a closed copy back what the first page of every Takhin file says, and the length that it says.

    template: a file without records, whose tables and views the copy's are. True if the page matches its
    checksum then: the damage was there, and is no more. Files of schema version 1, which have no checksums,
    are left as they are.
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
        if matching and size_bytes < said_bytes:  # SQLite reads no file that is cut short
            file.seek(size_bytes)
            for at in range(size_bytes, said_bytes, PAGE_BYTES):
                file.write(NO_PAGE[: said_bytes - at])
    return bool(matching)


def lend_first_page(path: Path, template: Path) -> None:
    """Give a closed copy the template's first page in place of one that is beyond mending.

    Files of several versions differ in it, but each table is at the same page in all: so the pages of the
    records are found, which have checksums of their own.
    """
    with path.open("r+b") as file:
        page = _of_template(template, file.read(PAGE_BYTES))
        file.seek(0)
        file.write(page[:-RESERVED_BYTES] + checksum(page[:-RESERVED_BYTES]))


def _first_pages(found: bytes, size_bytes: int, template: Path | None) -> Iterator[bytes]:
    """What the first page may have been, the likeliest first, with the checksum that was found on it."""
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
    load()
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.pragma("checksum_verification", 0)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # which finds the log
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        connection.close()


def trust_pages(path: Path, *, changed: bool) -> bool:
    """Give checksums to damaged pages that may be believed, see above. True if none is left.

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
        checked.xRead(100, 0)  # from which it learns that there are checksums
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
    """Whether the file's structure is whole, leaving checksums aside."""
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.pragma("checksum_verification", 0)
            return connection.execute("PRAGMA integrity_check(1)").fetchall() == [("ok",)]
        finally:
            connection.close()
    except apsw.Error:
        return False


class Salvage:
    """Makes a new file of an old one's readable records."""

    def __init__(self, old: Path, new: Path) -> None:
        """old: a closed copy of the damaged file. new: where there is no file yet.

        Raises OSError, apsw.Error.
        """
        versions.build(new)
        self._db = open_writer(new)
        self.notes: list[str] = []
        """What was lost besides records, as sentences."""
        self._version = VERSION
        try:
            header = file_header(old)
            self._version = header.user_version
            if header.user_version > 1 and header.reserved_bytes != RESERVED_BYTES:
                raise DamagedError(f"{old} would be read without its checksums")
            self._db.execute("ATTACH ? AS old", (str(old),))
            self._db.execute("SELECT count(*) FROM old.sqlite_schema").fetchall()
            self.readable = True
        except (apsw.Error, DamagedError, ValueError):
            self.readable = False

    def close(self) -> None:
        close_whole(self._db)

    def longest_run(self, start: int, end: int) -> Run:
        """The longest run of whole records in [start, end); an empty one at `end` if there is none."""
        longest, run = Run(end, end), Run(start, start)
        for piece in self._runs(start, end):
            run = Run(run.start, piece.end) if piece.start == run.end else piece
            if run.end - run.start > longest.end - longest.start:
                longest = run
        return longest

    def end(self, known: int) -> int:
        """Where the old file's records end, at least `known`."""
        try:
            highest = self._db.execute(HIGHEST).get if self.readable else None
        except apsw.Error:
            highest = None
        return max(known, highest + 1 if highest is not None else 0)

    def _runs(self, start: int, end: int) -> Iterator[Run]:
        if not self.readable or not self._anything(start, end):
            return
        for first in range(start, end, CHUNK):
            yield from self._split(first, min(first + CHUNK, end))

    def _anything(self, start: int, end: int) -> bool:
        """Whether something can be read at all: else each offset would be tried in vain."""
        step = max(1, (end - start) // PROBES)
        return any(self._try(at, at + 1) is not None for at in range(start, end, step))

    def _split(self, start: int, end: int) -> Iterator[Run]:
        """The runs of [start, end), by halves where it cannot be read as a whole."""
        runs = self._try(start, end)
        if runs is not None:
            yield from runs
        elif end - start > 1:
            middle = (start + end) // 2
            yield from self._split(start, middle)
            yield from self._split(middle, end)

    def _try(self, start: int, end: int) -> Sequence[Run] | None:
        """The runs of records in [start, end); None if one of them, or a header, cannot be read."""
        runs: list[Run] = []
        try:
            for offset, *_ in self._db.execute(ROWS, (start, end)):
                if runs and runs[-1].end == offset:
                    runs[-1] = Run(runs[-1].start, offset + 1)
                else:
                    runs.append(Run(offset, offset + 1))
            for _ in self._db.execute(HEADERS, (start, end)):
                pass
        except apsw.Error:
            return None
        return runs

    def write(self, run: Run, expected: Expected) -> None:
        """Fill the new file with the run, what was committed to it, and whose log it is."""
        log = expected.log
        with self._db:
            for statement in COPY:
                if run.start < run.end:
                    self._db.execute(statement, run)
            self._try_copy(COPY_TIMES, run, None)
            self._try_copy(COPY_COMMITTED, run, "the groups' committed offsets")
            if self._version >= PRODUCERS_SINCE:
                self._try_copy(COPY_PRODUCERS, (run.end,), "what its producers have sent last")
            self._db.execute(
                PUT_LOG,
                (log.topic, log.partition, log.topic_id, log.incarnation_id, *run, log.commits),
            )
            if log.partition == 0:
                self._db.execute(PUT_TOPIC, (expected.num_partitions,))
                self._try_copy(COPY_CONFIGS, (), "the topic's configs, which are the defaults now")
                if not self._db.execute("SELECT count(*) FROM topic_configs").get:
                    configs = topic_configs.to_stored(topic_configs.parse({}, Settings()))
                    self._db.executemany(PUT_CONFIG, configs.items())

    def _try_copy(self, statement: str, bindings: Sequence[int], what: str | None) -> None:
        """Copy a small table, all of it or nothing. what: what is lost with it, if that is worth saying."""
        try:
            if not self.readable:
                raise apsw.CorruptError
            with self._db:  # a savepoint
                self._db.execute(statement, bindings)
        except apsw.Error:
            if what is not None:
                self.notes.append(what)


def said_of_itself(path: Path) -> tuple[Log | None, int | None]:
    """The log row and the partition count of a file, as far as they can be read."""
    try:
        load()
        connection = apsw.Connection(str(path))
    except apsw.Error:
        return None, None
    try:
        found: list[object] = []
        for reading in (read_log, num_partitions):
            try:
                found.append(reading(connection))
            except apsw.Error:
                found.append(None)
        log, count = found
        return (
            log if isinstance(log, Log) else None,
            count if isinstance(count, int) else None,
        )
    finally:
        connection.close()
