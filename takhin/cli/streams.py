"""stdout and stderr as all commands use them: what is written is written whole, and text is UTF-8.

Python's own streams return after a part of it if they are unbuffered (PYTHONUNBUFFERED) and the process is
stopped and continued, or if the pipe does not block; they encode text as the locale says, and are missing if
the caller has closed them.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from takhin.cli.signals import ending

STDIN, STDOUT, STDERR = range(3)

BUFFER_BYTES = 64 << 10
"""Bytes gathered before they are written: as many as a pipe holds."""

FILE_BYTES_AT_ONCE = 1 << 20
"""Bytes of one write to a file, which never waits for a reader."""


class OutputError(OSError):
    """stdout cannot be written, for another reason than that its reader has gone (BrokenPipeError)."""

    def __str__(self) -> str:
        return f"cannot write the output: {self.strerror}"


class _Descriptor(io.RawIOBase):
    """A descriptor that takes all of what it is given. It is not closed with this object."""

    def __init__(self, number: int, *, closed: bool) -> None:
        self._number = number
        self._closed_by_caller = closed
        self._at_once_max = FILE_BYTES_AT_ONCE if _is_file(number) else select.PIPE_BUF
        self._given_up = False
        """True after an error or a signal: what is still buffered would only raise or wait again."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return not self._closed_by_caller and os.isatty(self._number)

    def write(self, content: Any, /) -> int:
        left = memoryview(content).cast("B")
        size_bytes = len(left)
        if not self._given_up:
            self._given_up = True
            try:
                self._write_all(left)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise OutputError(error.errno, error.strerror) from error
            self._given_up = False
        return size_bytes

    def _write_all(self, left: memoryview) -> None:
        if self._closed_by_caller:
            raise OSError(errno.EBADF, "it is closed")
        while left:
            self._wait()
            try:
                left = left[os.write(self._number, left[: self._at_once_max]) :]
            except BlockingIOError:  # another process has filled it
                continue

    def _wait(self) -> None:
        """Wait until there is room; the write does not wait then, where no signal could end it."""
        ending.wait(self._number, select.POLLOUT)


class _Complaints(_Descriptor):
    """stderr. If it cannot be written, there is nobody to tell."""

    def write(self, content: Any, /) -> int:
        with suppress(OSError):
            super().write(content)
        return len(content)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._number, select.POLLOUT)
        poll.poll()  # what a signal has ended is told here


@contextmanager
def whole_streams() -> Iterator[None]:
    """Replace the interpreter's own stdout and stderr in the block, and flush them at its end."""
    _keep_places()
    former = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__:
        stdout = _Descriptor(STDOUT, closed=sys.stdout is None)
        sys.stdout = _text(stdout, line_buffering=stdout.isatty())
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Complaints(STDERR, closed=sys.stderr is None), line_buffering=True)
    try:
        yield
    finally:
        with suppress(OSError, KeyboardInterrupt):  # of an interrupted command; the others have flushed
            sys.stderr.flush()
            sys.stdout.flush()
        sys.stdout, sys.stderr = former


def stderr_has_room() -> bool:
    """True if a line can be written to stderr without waiting for its reader."""
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    return bool(poll.poll(0))


def _keep_places() -> None:
    """Put something into the places that the caller has closed, so that no socket gets their numbers."""
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if number == STDIN else os.O_RDONLY)


def _is_file(number: int) -> bool:
    return stat.S_ISREG(os.fstat(number).st_mode)


def _text(raw: io.RawIOBase, *, line_buffering: bool) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw, BUFFER_BYTES),
        encoding="utf-8",
        errors="backslashreplace",  # names of files that are not UTF-8; \\udcff is an escape in JSON, too
        newline="\n",
        line_buffering=line_buffering,
    )
