"""A data folder that all queries read, because they leave no trace."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.support import Store
from takhin.model import CommittedOffset, Header, Source
from takhin.testing.contract import NOW, batch, name_of, spec, under

VALUES = (b'{"a": 1}', b"gr\xc3\xb6\xc3\x9fer", b"\x80", b"nul\0nul", b"", None)
KEYS = (b"user-1", b"user-2", b"\xff", None, b"", b"user-1")
HEADERS = {0: [Header("trace", b"1"), Header("trace", b"\xff")], 4: [Header("only", b"")]}


async def fill(data_dir: Path) -> None:
    """Fill partition 0 with every kind of value and 1 with numbers, the first 100 trimmed; leave 2 empty."""
    store = Store(data_dir)
    await store.open()
    logs = (await store.engine.create_topic(spec("orders", 3))).partitions
    times = range(NOW, NOW + len(VALUES))
    sent = batch(*VALUES, keys=KEYS, timestamps=times, headers=HEADERS)
    await logs[0].append(under(sent, source=Source("shop", "baskets", 3, 41, "of-baskets")))
    committed = CommittedOffset(2, "so far", NOW)
    await store.engine.offsets.commit("billing", {name_of(logs[0]): committed})
    late = {name_of(logs[1]): CommittedOffset(0, "", NOW)}
    await store.engine.offsets.commit("late", late)
    for first in range(0, 3_000, 500):
        values = [b"%d" % n for n in range(first, first + 500)]
        await logs[1].append(batch(*values, timestamps=[NOW + n for n in range(first, first + 500)]))
    await logs[1].trim(100)
    await store.close()


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a stopped broker, with the topic "orders" of `fill`.

    It is made on a thread, because asyncio.run leaves its caller without an event loop.
    """
    folder = tmp_path_factory.mktemp("stopped")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, fill(folder)).result()
    return folder


@pytest.fixture
async def store(tmp_path: Path):
    """A running engine on a data folder of the test's own."""
    opened = Store(tmp_path / "data")
    await opened.open()
    yield opened
    await opened.close()
