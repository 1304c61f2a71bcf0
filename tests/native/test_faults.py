"""Packed batches whose group cannot be stored: the answers, and what is left, are those of other batches."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import apsw
import pytest

from faults.failing_disk import Plan, failing_disk
from native.packing import BUILT, packed
from storage.support import Store, check_files, sqlite_engine
from takhin.errors import OutcomeUnknownError, PartitionUnavailableError, StorageFullError
from takhin.model import Batch, Header
from takhin.testing.contract import batch, read_all, spec

pytestmark = pytest.mark.skipif(not BUILT, reason="the native library was not built")

SETTINGS = {"ballast_bytes": 0, "free_bytes_low": 0, "recover_wait_ms": 50}


def columns(*values: bytes, headers: int = 0) -> Batch:
    return batch(*values, headers={at: [Header("h", b"v" * 50)] * headers for at in range(len(values))})


def interrupt(log, _disk) -> Callable[[], None]:
    """SQLite ends a statement that takes long."""
    writer = log._file.writer
    writer.set_progress_handler(lambda: True, 1_000)
    return lambda: writer.set_progress_handler(None)


def plan(log, disk, kind: str, **more) -> Callable[[], None]:
    disk.plan = Plan(kind, log.path, 1, for_good=True, wal=True, **more)

    def end() -> None:
        disk.plan = None

    return end


FAULTS = {
    "full": partial(plan, kind="write", code=apsw.SQLITE_FULL, errno=errno.ENOSPC),
    "quota": partial(plan, kind="write", code=apsw.SQLITE_IOERR_WRITE, errno=errno.EDQUOT),
    "sync": partial(plan, kind="sync"),
    "interrupted": interrupt,
}


ERRORS = (StorageFullError, OutcomeUnknownError, PartitionUnavailableError)


async def is_stored(log, sent: Batch) -> bool:
    try:
        await log.append(sent)
    except (PartitionUnavailableError, StorageFullError):
        return False
    return True


async def outcome(folder, make: Callable[..., Batch], begin) -> tuple[list[str], list[bytes]]:
    """(what the appends of a group come to while it fails, what is in the log after the next one)."""
    with failing_disk() as disk:
        engine = sqlite_engine(folder, **SETTINGS)
        await engine.open()
        (log,) = (await engine.create_topic(spec("t"))).partitions
        await log.append(make(b"first"))
        end = begin(log, disk)
        group = [make(*[b"%d" % at * 500 for at in range(20)]), make(*[b"v"] * 3_000, headers=1), make(b"3")]
        answers = await asyncio.gather(*map(log.append, group), return_exceptions=True)
        end()
        if begin is interrupt:  # a partition that has failed without its disk waits for a start of the broker
            await engine.close()
            engine = sqlite_engine(folder, **SETTINGS)
            await engine.open()
            log = engine.topics["t"].partitions[0]
        async with asyncio.timeout(10):
            while not await is_stored(log, make(b"after")):
                await asyncio.sleep(0.02)
                await engine._parts.upkeep.look_at_space()
        found = [row[3] for row in await read_all(log)]
        await engine.close()
    check_files(folder)
    return [type(answer).__name__ for answer in answers], found


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_group_that_fails(tmp_path, fault):
    """Nothing of it is acknowledged or stored, and the partition goes on, whichever way records go."""
    answers, found = await outcome(tmp_path / "packed", packed, FAULTS[fault])
    assert (answers, found) == await outcome(tmp_path / "columns", columns, FAULTS[fault])
    assert {*answers} < {error.__name__ for error in ERRORS}
    assert found == [b"first", b"after"]


async def test_one_batch_that_cannot_be_stored(tmp_path):
    """It fails alone, whatever its bytes are: neighbours are stored, and the partition goes on."""
    store = Store(tmp_path / "data")
    await store.open()
    (log,) = (await store.engine.create_topic(spec("t"))).partitions
    made = packed(*[b"vvvv"] * 5)
    wire = bytearray(made.packed.request)
    wire[made.packed.facts.begin + 2] = 0x7A  # a field that no record has
    bad = replace(made, packed=replace(made.packed, request=bytes(wire)))
    appends = (log.append(batch(b"1")), log.append(bad), log.append(packed(b"2")))
    answers = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(answer, Exception) for answer in answers] == [False, True, False]
    assert [row[3] for row in await read_all(log)] == [b"1", b"2"]
    await store.close()
