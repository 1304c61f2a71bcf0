"""When a commit group waits for company, with a wait so long that an unwanted one would be noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.support import Store
from takhin.storage.contract import PartitionLog
from takhin.storage.sqlite.commits import COMPANY_MIN, SMALL_GROUP_BYTES
from takhin.testing.contract import batch, numbered, spec


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(tmp_path / "data", group_wait_ms=60_000)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def logs(store: Store) -> tuple[PartitionLog, ...]:
    return tuple((await store.engine.create_topic(spec("orders", 2))).partitions)


async def append_together(log: PartitionLog, count: int) -> None:
    await asyncio.gather(*(log.append(numbered(1)) for _ in range(count)))


async def test_the_group_after_several_small_batches_waits(store: Store, logs):
    """A group after several small batches waits while another partition commits, but not during a close."""
    await append_together(logs[0], COMPANY_MIN)
    waiting = logs[0].append(numbered(1))
    await logs[1].append(numbered(1))
    assert not waiting.done()
    assert logs[0].end_offset == COMPANY_MIN
    await store.close()
    assert (await waiting).offset == COMPANY_MIN
    await store.open()


async def test_those_who_produce_alone_do_not_wait(logs):
    """Groups of few batches follow each other at once."""
    for _ in range(5):
        await append_together(logs[0], COMPANY_MIN - 1)
    assert logs[0].end_offset == 5 * (COMPANY_MIN - 1)


async def test_large_batches_do_not_wait(logs):
    """Groups of many bytes follow each other at once, however many batches they have."""
    for _ in range(3):
        await asyncio.gather(*(logs[0].append(batch(bytes(SMALL_GROUP_BYTES))) for _ in range(COMPANY_MIN)))
    assert logs[0].end_offset == 3 * COMPANY_MIN
