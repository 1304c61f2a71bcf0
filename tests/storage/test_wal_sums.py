"""The sums of a WAL's frames, compared in C, against Python's own arithmetic."""

from __future__ import annotations

import struct
from contextlib import closing

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from takhin.schema import PAGE_BYTES

from takhin import native
from takhin.disk.wal_sums import FRAME_BYTES, FRAME_HEAD, are_whole, comparer, sums_of

NOT_SUMMED = range(8, 16)
"""The salts, which are compared by themselves."""


def frames(pages: list[bytes], order: str) -> list[bytes]:
    """Frames with these pages, one after the other, from the sums (5, 7) on."""
    made, sums = [], (5, 7)
    for number, page in enumerate(pages, 1):
        head = struct.pack(">2I", number, 0)
        sums = sums_of(page, sums_of(head, sums, order), order)
        made.append(FRAME_HEAD.pack(number, 0, 1, 2, *sums) + page)
    return made


PAGES = st.lists(
    st.sampled_from([bytes(PAGE_BYTES), b"\xff" * PAGE_BYTES])
    | st.binary(min_size=64, max_size=64).map(lambda part: part * (PAGE_BYTES // 64)),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("order", ["<", ">"])
@given(pages=PAGES, data=st.data())
def test_whole_and_flipped(order, pages, data):
    """Frames as written are whole; with any bit of one flipped they are not."""
    with closing(comparer()) as compare:
        made = frames(pages, order)
        assert are_whole(compare, made, (5, 7), order)
        assert not are_whole(compare, made, (5, 6), order)
        number = data.draw(st.integers(0, len(made) - 1))
        at = data.draw(st.sampled_from([at for at in range(FRAME_BYTES) if at not in NOT_SUMMED]))
        frame = bytearray(made[number])
        frame[at] ^= 1 << data.draw(st.integers(0, 7))
        made[number] = bytes(frame)
        assert not are_whole(compare, made, (5, 7), order)


@pytest.mark.skipif(isinstance(native.found(), Exception), reason=str(native.found()))
@given(pages=PAGES, data=st.data())
def test_by_the_native_library(pages, data):
    """It finds as many whole frames as there are before one that is flipped or has other salts, or is cut."""
    made = frames(pages, "<")
    log = bytearray(b"".join(made))
    salts = bytes(made[0][8:16])

    def whole(content, before=(5, 7), salts=salts):
        return native.library().whole_frames(bytes(content), PAGE_BYTES, salts, before)

    def sums_before(number):
        return (5, 7) if not number else FRAME_HEAD.unpack_from(made[number - 1])[4:]

    assert whole(log) == (len(made), sums_before(len(made)))
    assert whole(log, (5, 6)) == (0, (5, 6))
    assert whole(log, salts=b"12345678") == (0, (5, 7))
    assert whole(log[: data.draw(st.integers(0, FRAME_BYTES - 1))]) == (0, (5, 7))
    at = data.draw(st.integers(0, len(log) - 1))
    log[at] ^= 1 << data.draw(st.integers(0, 7))
    assert whole(log) == (at // FRAME_BYTES, sums_before(at // FRAME_BYTES))


def test_of_sqlite(tmp_path):
    """The frames that SQLite writes are whole."""
    with closing(comparer()) as compare:
        db = apsw.Connection(str(tmp_path / "a.db"))
        db.pragma("page_size", PAGE_BYTES)
        db.pragma("journal_mode", "wal")
        db.execute("CREATE TABLE t (x)")
        for _ in range(20):
            db.execute("INSERT INTO t VALUES (randomblob(20000))")
        log = (tmp_path / "a.db-wal").read_bytes()
        made = [log[at : at + FRAME_BYTES] for at in range(32, len(log), FRAME_BYTES)]
        assert len(made) > 20
        sums = struct.unpack(">2I", log[24:32])
        assert are_whole(compare, made, sums)
        if not isinstance(library := native.found(), Exception):
            assert library.whole_frames(log[32:], PAGE_BYTES, log[16:24], sums)[0] == len(made)
        db.close()
