"""What `takhin produce` reads, and how bytes become records: lines, or another delimiter's, or a file as one.

Whatever a read returns is passed on at once; nothing waits for more to come. Knows no broker.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator

import click

from takhin.cli import json_lines
from takhin.cli.output import Progress
from takhin.cli.signals import ending
from takhin.cli.streams import STDIN
from takhin.cli.templates import unescaped
from takhin.client import Header, NewRecord

READ_BYTES = 512 << 10
"""Bytes taken from stdin or a file at a time: enough that calls of the system cost nothing."""

LINE_BYTES_MAX = 64 << 20
"""Bytes of a line, far above any record: it bounds memory if the input has no lines at all."""

Parse = Callable[[bytes], tuple[NewRecord, int | None] | None]
"""Turns a line into its record and the partition that it names, if any; None for a line without a record."""


def opened(source: str) -> int:
    """Return a descriptor of FILE, or of stdin."""
    if source != "-":
        try:
            return os.open(source, os.O_RDONLY)
        except OSError as error:
            raise click.ClickException(f"cannot read {source}: {error.strerror}") from error
    if sys.stdin is None:  # closed by the caller; its number may belong to a socket by now
        raise click.ClickException("stdin is closed")
    return STDIN


def reads(descriptor: int, progress: Progress) -> Iterator[bytes]:
    """Yield what each read returns, until the end."""
    size_bytes, done = os.fstat(descriptor).st_size, 0  # 0 for a pipe
    while True:
        ending.wait(descriptor, select.POLLIN)
        try:
            chunk = os.read(descriptor, READ_BYTES)
        except BlockingIOError:  # another process has read it
            continue
        if not chunk:
            return
        yield chunk
        done += len(chunk)
        progress(done, max(done, size_bytes))


def lines(chunks: Iterable[bytes], delimiter: bytes = b"\n") -> Iterator[list[bytes]]:
    """Yield the lines that each chunk completes, without delimiters; the last line may have none."""
    overlap = len(delimiter) - 1  # bytes at the end of a chunk that may begin a delimiter
    pieces: list[bytes] = []  # of a line whose delimiter has not come yet
    for read in chunks:
        chunk = pieces.pop() + read if overlap and pieces else read
        *whole, tail = chunk.split(delimiter)
        if whole:
            yield [b"".join([*pieces, whole[0]]), *whole[1:]]
            pieces.clear()
        pieces += [tail[:-overlap], tail[-overlap:]] if overlap else [tail]
        if sum(map(len, pieces)) > LINE_BYTES_MAX:
            raise click.ClickException(f"a line is longer than {LINE_BYTES_MAX} bytes")
    if last := b"".join(pieces):
        yield [last]


def whole(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield all that is read as one line, with its newlines."""
    pieces, size_bytes = [], 0
    for chunk in chunks:
        pieces.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > LINE_BYTES_MAX:
            raise click.ClickException(f"the file is longer than {LINE_BYTES_MAX} bytes")
    yield [b"".join(pieces)]


def json_parser(*, keep_partitions: bool) -> Parse:
    """A parser for lines of JSON, which passes over blank ones."""

    def parse(line: bytes) -> tuple[NewRecord, int | None] | None:
        if not line.strip():
            return None
        record, partition = json_lines.parse(line)
        return record, partition if keep_partitions else None

    return parse


def line_parser(
    key: str | None, key_separator: str | None, headers: tuple[str, ...], null: str | None = None
) -> Parse:
    """A parser for lines that are values, or keys and values. null: the text that stands for null."""
    if key is not None and key_separator is not None:
        raise click.UsageError("use either --key or --key-separator, not both", click.get_current_context())
    pairs = [header.partition("=") for header in headers]
    if bad := next(
        (text for text, (name, equals, _) in zip(headers, pairs, strict=True) if not (name and equals)), None
    ):
        raise click.BadParameter(f"{bad!r} is not KEY=VALUE", param_hint="--header")
    same = [Header(name, value.encode()) for name, _, value in pairs]
    fixed = None if key is None else key.encode()
    separator = None if key_separator is None else given_bytes("--key-separator", key_separator)
    absent = None if null is None else null.encode()

    def parse(line: bytes) -> tuple[NewRecord, None]:
        if separator is None:
            return NewRecord(None if line == absent else line, fixed, same), None
        key, found, value = line.partition(separator)
        if not found:
            raise ValueError(f"it has no {key_separator!r}")
        return NewRecord(None if value == absent else value, None if key == absent else key, same), None

    return parse


def given_bytes(option: str, text: str) -> bytes:
    r"""The bytes that an option gives as text, with escapes such as \t. They must not be empty."""
    try:
        given = unescaped(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
    if not given:
        raise click.BadParameter("must not be empty", param_hint=option)
    return given
