"""Keys, values and headers that end in zeros: SQLite's pages for them, and that all are served."""

from __future__ import annotations

import asyncio
import tempfile
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from faults.pages import pages_of
from storage.support import MEMORY, Store, check_files
from takhin.copies.verify import verify
from takhin.disk.overflow import (
    HEADER_LAST_BYTES_MIN,
    KEY_LOCAL_BYTES_MAX,
    LOCAL_BYTES_MIN,
    RECORD_LAST_BYTES_MIN,
    USABLE_BYTES,
)
from takhin.disk.zero_tails import HEADER_ZEROS, RECORD_ZEROS, length_without
from takhin.model import Batch, Header
from takhin.testing.contract import as_expected, batch, read_all, spec

FULL = USABLE_BYTES - 4
"""What an overflow page holds of a row."""

NEAR = [
    least + more
    for least in (HEADER_LAST_BYTES_MIN, RECORD_LAST_BYTES_MIN, 4_084, 16_341, FULL, 2 * FULL, 60_000)
    for more in (-1, 0, 1)
]
lengths = st.one_of(st.sampled_from(NEAR), st.integers(0, 70_000))
begins = st.sampled_from([b"", b"", b"x", b"x" * 3_000])
contents = st.builds(lambda begin, zeros: begin + bytes(zeros), begins, lengths)
keys = st.none() | contents
values = st.none() | contents
headers = st.lists(
    st.builds(
        lambda text, zeros, value: Header("h" * text + "\0" * zeros, value),
        st.integers(1, 3),
        st.sampled_from([0, 0, 2_054, 2_055, 5_000]),
        contents,
    ),
    max_size=3,
)
records = st.lists(st.tuples(keys, values, headers), min_size=1, max_size=4)


def of(rows) -> Batch:
    with_headers = {n: row[2] for n, row in enumerate(rows) if row[2]}
    return batch(*(row[1] for row in rows), keys=[row[0] for row in rows], headers=with_headers)


@given(keys, values, st.sampled_from([HEADER_ZEROS, RECORD_ZEROS]))
@settings(max_examples=300)
def test_the_length_without_zeros(key, value, zeros):
    """It is that of key and value together, if they end in enough zeros."""
    content = (key or b"") + (value or b"")
    length = len(content.rstrip(b"\0"))
    expected = length if len(content) - length >= len(zeros) else None
    assert length_without(key or b"", value or b"", zeros) == expected


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(dir=MEMORY) as made:
        yield Path(made)


@given(records)
@example([(None, bytes(least), []) for least in NEAR])
@example([(bytes(least), None, []) for least in NEAR])
@example([(bytes(9_000), bytes(zeros), []) for zeros in (0, 5_311, 5_312, 5_313)])
@example([(None, None, [Header("h", bytes(zeros))]) for zeros in NEAR])
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_zeros_are_served(folder, rows):
    """Whatever ends in zeros is read as it was sent, again after a restart, and is no damage."""

    async def served() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as data:
            store = Store(Path(data))
            await store.open()
            await store.engine.create_topic(spec("t"))
            sent = of(rows)
            await store.log("t").append(sent)
            for again in (store.reopen, store.crash):
                assert await read_all(store.log("t")) == as_expected(sent, 0)
                await again()
            await store.close()
            check_files(Path(data))
            assert verify(Path(data)).ok

    with asyncio.Runner() as runner:
        runner.run(served())


async def test_what_sqlite_puts_on_the_last_page(tmp_path):
    """No last overflow page holds less than we rely on, and some hold that little; short keys are on none."""
    store = Store(tmp_path)
    await store.open()
    await store.engine.create_topic(spec("t"))
    log = store.log("t")
    key = b"<key>" * (KEY_LOCAL_BYTES_MAX // 5)
    for pages, about in product((0, 1, 2), (16_341, FULL + LOCAL_BYTES_MIN)):
        wanted = range(about + pages * FULL - 40, about + pages * FULL + 10)
        await log.append(batch(*(b"x" * n for n in wanted)))
        await log.append(batch(*(b"x" * (n - len(key)) for n in wanted), keys=[key] * len(wanted)))
    of_headers = [4_084, FULL + LOCAL_BYTES_MIN, 4_084 + FULL, 2 * FULL + LOCAL_BYTES_MIN]
    for about in of_headers:
        wanted = range(about - 40, about + 10)
        many = {n: [Header("h", b"x" * length)] for n, length in enumerate(wanted)}
        await log.append(batch(*[b""] * len(wanted), headers=many))
    await store.close()
    path = tmp_path / "topics/t/0.db"
    last = [page for page in pages_of(path) if page.kind == "last"]
    content = path.read_bytes()
    for table, least in (("records", RECORD_LAST_BYTES_MIN), ("headers", HEADER_LAST_BYTES_MIN)):
        assert min(page.payload for page in last if page.table == table) == least
    for page in pages_of(path):
        if page.kind in ("middle", "last"):
            assert b"key>" not in content[(page.number - 1) * 16_384 : page.number * 16_384]
