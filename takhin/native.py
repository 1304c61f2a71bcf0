"""The native library: C code that takes and gives records without a Python object for each. It is optional.

Its sources are in native/. It is built when the package is installed, where there is a C compiler with the
headers of SQLite; without it everything works, more slowly. SQLite loads it as an extension
(takhin/disk/native.py), and its functions that need no SQLite are called from here.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

NAME = "_native"
"""Of the file in this package, without its suffix."""
VERSION = 4
"""That of native/takhin.h. A file of another one is left over from another version of the package."""
ZEROS_MAX = 2_000
"""A record or header that ends in as many zeros is stored by Python: with a few more it needs a row that only
Python writes (takhin/disk/zero_tails.py)."""


class NativeMissingError(Exception):
    """There is no library that can be used. Its text is a sentence without its end."""


class NativeUnusableError(NativeMissingError):
    """There is a file of the library, and it cannot be used: most likely it is left from another version."""


class Limits(ctypes.Structure):
    """What a plain request has at most.

    header_bytes: of one header. zeros: at the end of a record. head_bytes, head_fields: besides its records.
    """

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("records", "headers", "record_headers", "header_bytes"),
            *("zeros", "head_bytes", "head_fields"),
        )
    )


class Facts(ctypes.Structure):
    """What a look over the records of a request has found.

    begin, end: where they are in the request.
    record_bytes_max: of the largest one, as max.message.bytes counts them.
    keyless: how many have no key. unstamped: how many have the timestamp 0.
    first, last: timestamps of the first and the last record. lowest, highest: of all that have one.
    """

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("begin", "end", "records", "headers", "record_bytes_max"),
            *("keyless", "unstamped", "first", "last", "lowest", "highest"),
        )
    )
    begin: int
    end: int
    records: int
    headers: int
    record_bytes_max: int
    keyless: int
    unstamped: int
    first: int
    last: int
    lowest: int
    highest: int


class Trait(IntEnum):
    """Of the record that `Library.find` looks for: more bytes than a number, this timestamp, or no key."""

    LARGER, STAMPED, KEYLESS = range(3)


class Library:
    """The functions of the library that need no SQLite.

    Those about records keep the interpreter's lock: to give it up would cost more than they take, which is
    10 ns a record.
    """

    def __init__(self, path: Path) -> None:
        """Raises NativeUnusableError."""
        try:
            functions = ctypes.PyDLL(str(path))
            version = functions.takhin_version()
            self._scan, self._cut, self._find = (
                functions.takhin_scan,
                functions.takhin_cut,
                functions.takhin_find,
            )
            self._whole_frames = ctypes.CDLL(str(path)).takhin_whole_frames  # gives the lock up meanwhile
        except (OSError, AttributeError) as error:
            raise NativeUnusableError(f"{path} cannot be loaded: {error}") from error
        if version != VERSION:
            raise NativeUnusableError(
                f"{path} has version {version}, and this is {VERSION}: install takhin again"
            )
        self.path = path
        self._scan.argtypes = (
            *(ctypes.c_char_p, ctypes.c_int64),
            *(ctypes.POINTER(Limits), ctypes.POINTER(Facts)),
        )
        self._cut.argtypes = (
            *(ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64),
            *(ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)),
        )
        self._cut.restype = ctypes.c_int64
        self._find.argtypes = (
            *(ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64),
            *(ctypes.c_int, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)),
        )
        self._find.restype = ctypes.c_int64
        self._whole_frames.argtypes = (
            *(ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64),
            *(ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint32)),
        )
        self._whole_frames.restype = ctypes.c_int64

    def scan(self, request: bytes, limits: Limits) -> Facts | None:
        """What is in the records of a produce request; None if they are not plain (see native/scan.c)."""
        facts = Facts()
        return facts if self._scan(request, len(request), limits, facts) else None

    def cut(self, request: bytes, part: range, *, weight_max: int, record_weight: int) -> tuple[int, int]:
        """(where a part of plain records ends, how many it has, at least one).

        part: where the records are in the request that it begins with. weight_max: about the most that it
        weighs: each record its bytes and `record_weight`.
        """
        count = ctypes.c_int64()
        end: int = self._cut(request, part.stop, part.start, weight_max, record_weight, count)
        if end < 0:
            raise ValueError("the records are not plain")
        return end, count.value

    def find(self, request: bytes, part: range, what: Trait, number: int = 0) -> tuple[int, int]:
        """(the position of the first record of its kind, its bytes if those were asked for).

        part: where the records are in the request. Raises ValueError if there is none.
        """
        size = ctypes.c_int64()
        position: int = self._find(request, part.stop, part.start, what, number, size)
        if position < 0:
            raise ValueError(f"there is no record {what.name} {number}")
        return position, size.value

    def whole_frames(
        self, frames: bytes, page_bytes: int, salts: bytes, before: tuple[int, int]
    ) -> tuple[int, tuple[int, int]]:
        """(how many frames of a write-ahead log are whole, from the first one on; the sums of the last one).

        The log sums little-endian words. salts: 8 bytes that each has. before: the sums of the frame before
        them.
        """
        sums = (ctypes.c_uint32 * 2)(*before)
        whole: int = self._whole_frames(frames, len(frames), page_bytes, salts, sums)
        return whole, (sums[0], sums[1])


@cache
def found() -> Library | NativeMissingError:
    """The library of this installation, or why there is none."""
    paths = (Path(__file__).with_name(NAME + suffix) for suffix in EXTENSION_SUFFIXES)
    path = next((path for path in paths if path.exists()), None)
    try:
        if path is None:
            raise NativeMissingError("it was not built: there was no C compiler, or no sqlite3ext.h for it")
        return Library(path)
    except NativeMissingError as error:
        return error


def library() -> Library:
    """The library of this installation. Raises NativeMissingError."""
    if isinstance(there := found(), NativeMissingError):
        raise there
    return there
