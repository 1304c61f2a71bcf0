"""The checksum of a WAL's frame, compared in C: 7 µs a frame, where Python's own arithmetic takes 300.

A frame carries the sums of all frames up to it, its own bytes included (sqlite.org/walformat.html). They are
linear in the bytes, so those of a frame alone follow from its own and the ones before it. cksumvfs computes
the same sums for the last 8 bytes of a page, from zero on, and has an SQL function that compares them: it is
asked about the frame's page with such 8 bytes in the place of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache

import apsw

from takhin.disk import statements as sql
from takhin.schema import PAGE_BYTES
from takhin.schema.checksums import load

Sums = tuple[int, int]

FRAME_HEAD = struct.Struct(">6I")
"""Page, pages of the file after a commit or 0, two salts, two sums."""
FRAME_BYTES = FRAME_HEAD.size + PAGE_BYTES
PAIR = struct.Struct("<2I")
_PAIRS = PAGE_BYTES // PAIR.size - 1
"""Of a page without its last 8 bytes."""
_BITS = 0xFFFF_FFFF


def sums_of(content: bytes | memoryview, before: Sums, order: str) -> Sums:
    """SQLite's checksum of content (a multiple of 8 bytes). before: the sums of the content before it.

    order: of the bytes of a word, "<" or ">".
    """
    sum_1, sum_2 = before
    words = iter(struct.unpack(f"{order}{len(content) // 4}I", content))
    for word in words:
        sum_1 = (sum_1 + word + sum_2) & _BITS
        sum_2 = (sum_2 + next(words) + sum_1) & _BITS
    return sum_1, sum_2


def comparer() -> apsw.Connection:
    """A connection for `are_whole`."""
    load()
    return apsw.Connection(":memory:")


def are_whole(
    compare: apsw.Connection, frames: Sequence[bytes | memoryview], before: Sums, order: str = "<"
) -> bool:
    """True if the sums that frames of PAGE_BYTES carry are right. They follow each other in a WAL.

    compare: any connection that cksumvfs was loaded for. before: the sums that the frame before them carries.
    """
    pages = []
    for frame in frames:
        *_, sum_1, sum_2 = FRAME_HEAD.unpack_from(frame)
        if order == "<":
            pages.append(_page(frame, before, (sum_1, sum_2)))
        elif sums_of(frame[FRAME_HEAD.size :], sums_of(frame[:8], before, order), order) != (sum_1, sum_2):
            return False  # of a machine that has the bytes of a word in the other order
        before = sum_1, sum_2
    return not pages or compare.execute(sql.verify_checksums(len(pages)), pages).get == len(pages)


def _page(frame: bytes | memoryview, before: Sums, after: Sums) -> bytes:
    """The frame's page; in the place of its last 8 bytes what the sums would be if they began with it."""
    word_1, word_2 = PAIR.unpack_from(frame)
    first_1 = (before[0] + word_1 + before[1]) & _BITS
    first_2 = (before[1] + word_2 + first_1) & _BITS
    word_1, word_2 = PAIR.unpack_from(frame, FRAME_BYTES - PAIR.size)
    last_2 = (after[1] - word_2 - after[0]) & _BITS
    last_1 = (after[0] - word_1 - last_2) & _BITS
    a, b, c, d = _power(_PAIRS)
    alone_1 = (last_1 - a * first_1 - b * first_2) & _BITS
    alone_2 = (last_2 - c * first_1 - d * first_2) & _BITS
    return b"".join((frame[FRAME_HEAD.size : -PAIR.size], PAIR.pack(alone_1, alone_2)))


@cache
def _power(pairs: int) -> tuple[int, int, int, int]:
    """What so many pairs of zeros make of two sums, as a matrix."""
    a, b, c, d = 1, 0, 0, 1
    for _ in range(pairs):
        a, b, c, d = a + c, b + d, a + 2 * c, b + 2 * d
        a, b, c, d = a & _BITS, b & _BITS, c & _BITS, d & _BITS
    return a, b, c, d
