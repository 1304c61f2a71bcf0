"""A write-ahead log in use is checked before it is copied: what is not as it was written is not made good."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event

import apsw
import pytest
from takhin.schema import PAGE_BYTES

from storage.support import freeze, refused, sqlite_engine
from takhin.copies.verify import verify
from takhin.disk import connection, wal
from takhin.disk.layout import wal_of
from takhin.disk.wal_check import WalCheck
from takhin.disk.wal_sums import FRAME_BYTES
from takhin.errors import PartitionUnavailableError
from takhin.testing.contract import batch, numbered, read_all, spec

SETTINGS = {"ballast_bytes": 0, "free_bytes_low": 0, "checkpoint_pages": 40}

FLIP = """
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1)
    file.seek(-1, 1)
    file.write(bytes([byte[0] ^ 1 << int(sys.argv[3])]))
"""


def flip(path, at: int, bit: int) -> None:
    """Flip a bit from another process, as a broken disk or memory does."""
    subprocess.run([sys.executable, "-c", FLIP, path, str(at), str(bit)], check=True)


async def frozen(data):
    """An engine with some frames in its WAL that no checkpoint copies."""
    engine = sqlite_engine(data, **SETTINGS)
    await engine.open()
    topic = await engine.create_topic(spec("orders", 1))
    files = await freeze(engine)
    for n in range(60):
        await topic.partitions[0].append(numbered(5, n))
    return engine, topic.partitions[0], files


def in_use(log) -> int:
    return log.path.with_name("0.db-wal").stat().st_size // FRAME_BYTES


@pytest.mark.parametrize("count", [8, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
async def test_a_clean_stop_does_not_make_it_good(tmp_path, count, figures):
    """A bit flipped in a frame in use: the stop copies nothing, and the next start refuses and names it."""
    seed = int(os.environ.get("FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"FAULT_SEED={seed}")
    chance = random.Random(seed)
    for number in range(count):
        data = tmp_path / str(number)
        engine, log, files = await frozen(data)
        before = log.path.stat().st_mtime_ns
        flip(
            wal_of(log.path), wal.HEAD.size + chance.randrange(in_use(log) * FRAME_BYTES), chance.randrange(8)
        )
        files.held = False
        await engine.close()
        assert log.path.stat().st_mtime_ns == before
        await refused(data, r"0\.db is short", **SETTINGS)
        assert not verify(data).ok
        shutil.rmtree(data)
    figures(f"flips in a live -wal: {count} times, each refused by the next start")


@pytest.mark.parametrize("frame", [0, 1, 3, 30, 80])
async def test_a_checkpoint_fails_the_partition_closed(tmp_path, frame):
    """The checkpoint that finds it copies nothing; writes are refused by name, and health says why."""
    engine, log, files = await frozen(tmp_path / "data")
    flip(wal_of(log.path), wal.HEAD.size + frame * FRAME_BYTES + 700, 0)
    files.held = False
    log.life.wake()
    await log.life.rested()
    with pytest.raises(PartitionUnavailableError, match=r"is damaged.*frames in use"):
        log.append(numbered(1))
    assert any("0.db-wal is not as it was written" in sentence for sentence in engine.troubles)
    await engine.close()
    await refused(tmp_path / "data", r"0\.db is short", **SETTINGS)


async def test_no_false_alarm_under_load(tmp_path):
    """Many checkpoints beside commits find nothing."""
    engine = sqlite_engine(tmp_path / "data", **SETTINGS)
    await engine.open()
    log = (await engine.create_topic(spec("orders", 1))).partitions[0]
    for _ in range(60):
        await log.append(batch(*[b"x" * 20_000] * 20))
    await log.life.rested()
    assert not engine.troubles
    assert len(await read_all(log)) == 1_200
    await engine.close()


async def test_a_wal_cut_off_while_it_is_checked(tmp_path):
    """A commit that restarts a WAL and cuts off what it had grown too large is no damage."""
    path = await a_file(tmp_path / "data")
    checker, writer = connection.open_writer(path), connection.open_writer(path)
    writer.pragma("journal_size_limit", PAGE_BYTES)
    written = Event()
    of_wal = WalCheck(path)

    def check():
        while not written.is_set():
            with suppress(apsw.BusyError):
                of_wal.check(checker)

    with ThreadPoolExecutor(1) as threads:
        checking = threads.submit(check)
        for number in range(300):
            writer.execute(
                "INSERT INTO records (offset, timestamp, value) VALUES (?, 0, zeroblob(1000000))", [number]
            )
            if number % 20 == 0:
                with suppress(apsw.BusyError):
                    writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        written.set()
        checking.result()
    checker.close()
    writer.close()


async def a_file(data):
    """A partition's file that no broker has open."""
    engine = sqlite_engine(data, **SETTINGS)
    await engine.open()
    path = (await engine.create_topic(spec("orders", 1))).partitions[0].path
    await engine.close()
    return path


SHELL = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("SELECT count(*) FROM records").fetchone()[0])
db.close()
"""


async def test_the_locks_are_kept(tmp_path):
    """After checks, a shell that opens and closes the file is not the last to do so: the -wal stays."""
    engine = sqlite_engine(tmp_path / "data", **SETTINGS)
    await engine.open()
    log = (await engine.create_topic(spec("orders", 1))).partitions[0]
    for n in range(1, 4):
        for _ in range(5):
            await log.append(batch(*[b"x" * 20_000] * 20))
        await log.life.rested()
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SHELL, log.path, stdout=subprocess.PIPE
        )
        printed, _ = await child.communicate()
        assert int(printed) == 100 * n
        log.life.check_place()
        assert in_use(log) > 0
    await engine.close()
