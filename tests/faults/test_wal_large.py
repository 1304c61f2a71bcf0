"""A write-ahead log that grows: the trouble names what keeps it from being copied."""

from __future__ import annotations

import asyncio

import pytest

from blackbox.clients import eventually
from faults.failing_disk import GATE_S_MAX, Gate, failing_disk
from faults.test_other_processes import beside
from storage.support import check_files, sqlite_engine
from takhin.testing.contract import batch, spec

SETTINGS = {"ballast_bytes": 0, "free_bytes_low": 0, "checkpoint_pages": 2, "wal_bytes_max": 100_000}
SLOW = "the disk is slower"
READ = "a program reads it"


async def grown(engine, log) -> str:
    """Append until the broker complains of the WAL; the cause that it gives."""
    while not engine.troubles:
        await log.append(batch(bytes(20_000)))
    (sentence,) = engine.troubles
    return sentence


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data/topics/t/0.db"


async def test_a_slow_disk(tmp_path, path):
    """While a checkpoint runs, the disk is to blame, and not a reader that nobody has seen."""
    with failing_disk() as disk:
        engine = sqlite_engine(tmp_path / "data", **SETTINGS)
        await engine.open()
        log = (await engine.create_topic(spec("t"))).partitions[0]
        disk.gate = gate = Gate("write", path)
        cause = await grown(engine, log)
        await asyncio.to_thread(gate.reached.wait, GATE_S_MAX)
        gate.opened.set()
        assert SLOW in cause
        await asyncio.to_thread(eventually, lambda: not log.wal_bytes_left)
        assert engine.troubles == []
        await engine.close()
        check_files(tmp_path / "data")


async def test_a_reader(tmp_path, path):
    """Once a checkpoint has come to its end without everything, the program that reads is named."""
    engine = sqlite_engine(tmp_path / "data", **SETTINGS)
    await engine.open()
    log = (await engine.create_topic(spec("t"))).partitions[0]
    await log.append(batch(b"v"))
    with beside(path, "BEGIN", "SELECT * FROM log"):
        while not any(READ in sentence for sentence in engine.troubles):  # a checkpoint has to end first
            await log.append(batch(bytes(20_000)))
    await asyncio.to_thread(eventually, lambda: not engine.troubles)
    await engine.close()
    check_files(tmp_path / "data")
