"""A write-ahead log in use is checked before it is copied: what is not as it was written is not made good."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event

import apsw
import pytest
from takhin.schema import PAGE_BYTES

import children
from faults.test_other_processes import beside
from storage.support import freeze, refused, sqlite_engine
from takhin.copies.verify import verify
from takhin.disk import connection, wal
from takhin.disk.faults import NotNowError, WalDamagedError
from takhin.disk.layout import wal_of
from takhin.disk.wal_check import WalCheck
from takhin.disk.wal_sums import FRAME_BYTES
from takhin.errors import OutcomeUnknownError, PartitionUnavailableError
from takhin.native import found
from takhin.storage.sqlite.checkpoint import Phase
from takhin.storage.sqlite.recovery import Failure
from takhin.storage.sqlite.steps import Step
from takhin.testing.contract import batch, numbered, read_all, spec
from takhin.testing.contract.harness import turns

SETTINGS = {"ballast_bytes": 0, "free_bytes_low": 0, "checkpoint_pages": 40}

FLIP = """
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1)
    file.seek(-1, 1)
    file.write(bytes([byte[0] ^ 1 << int(sys.argv[3])]))
"""


@pytest.fixture(params=[False, True], ids=["in Python", "in C"])
def native(request):
    """What compares the checksums: the native library, or None."""
    if request.param and isinstance(library := found(), Exception):
        pytest.skip(str(library))
    return library if request.param else None


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


async def test_a_wal_cut_off_while_it_is_checked(tmp_path, native):
    """A commit that restarts a WAL and cuts off what it had grown too large is no damage."""
    path = await a_file(tmp_path / "data")
    checker, writer = connection.open_writer(path), connection.open_writer(path)
    writer.pragma("journal_size_limit", PAGE_BYTES)
    written = Event()
    of_wal = WalCheck(path, native)

    def check():
        while not written.is_set():
            with suppress(apsw.BusyError, NotNowError):
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
        assert int(await children.run(sys.executable, "-c", SHELL, log.path)) == 100 * n
        log.life.check_place()
        assert in_use(log) > 0
    await engine.close()


@pytest.mark.parametrize("left", range(5))
async def test_few_descriptors(tmp_path, left, native):
    """Without enough descriptors for a check it is put off, however many are missing."""
    path = await a_file(tmp_path / "data")
    with closing(connection.open_writer(path)) as db, descriptors(left):
        db.execute("INSERT INTO records (offset, timestamp) VALUES (0, 0)")
        with suppress(NotNowError):
            WalCheck(path, native).check(db)


@contextmanager
def descriptors(left: int):
    """Let the process have only so many more within the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.dup(0)
    used = {int(each.name) for each in Path("/proc/self/fd").iterdir()}
    limit = max(used) + 1 + left
    filled = [os.dup(0) for _ in range(limit - left - len(used))]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in (first, *filled):
            with suppress(OSError):
                os.close(each)


async def test_a_check_is_put_off(tmp_path):
    """A WAL that cannot be checked now is not copied; health says why, and the next attempt copies it."""
    engine, log, files = await frozen(tmp_path / "data")
    before = log.path.stat().st_mtime_ns
    files.held = False
    with descriptors(0):
        log.life.wake()
        await log.life.rested()
    assert log.path.stat().st_mtime_ns == before
    assert [sentence for sentence in engine.troubles if "cannot be checked now" in sentence]
    await asyncio.wait_for(ended(engine), 10)
    assert log.path.stat().st_mtime_ns > before
    await log.append(numbered(1))
    await engine.close()


async def ended(engine) -> None:
    """Return when the engine has no trouble."""
    while engine.troubles:
        await turns()


async def test_a_stop_without_descriptors(tmp_path):
    """A stop that cannot check the WAL leaves it to the next start, which does."""
    engine, log, files = await frozen(tmp_path / "data")
    flip(wal_of(log.path), 20_000, 0)
    files.held = False
    with descriptors(0):
        await log.life.end()
    await engine.close()
    await refused(tmp_path / "data", r"0\.db is short", **SETTINGS)


async def test_without_the_folder_for_scratch(tmp_path):
    """DATA/tmp was removed: what is damaged is found all the same."""
    engine, log, files = await frozen(tmp_path / "data")
    flip(wal_of(log.path), 20_000, 0)
    shutil.rmtree(tmp_path / "data/tmp")
    files.held = False
    await engine.close()
    await refused(tmp_path / "data", r"0\.db is short", **SETTINGS)


@pytest.mark.parametrize("error", [apsw.CantOpenError("no descriptor"), OSError(errno.ENFILE, "none")])
def test_a_lack_of_descriptors_may_pass(error):
    """A partition that failed for want of a descriptor is tried again."""
    assert Failure.of(error, 1.0).retry_at == 1.0


async def test_nothing_damaged_is_served(tmp_path):
    """Once the WAL is known to be damaged nobody reads what is in it, and who waits is told."""
    engine, log, files = await frozen(tmp_path / "data")
    waiting = asyncio.ensure_future(log.grown(log.end_offset))
    await turns()
    flip(wal_of(log.path), 20_000, 0)
    files.held = False
    log.life.wake()
    await log.life.rested()
    for refused_one in (
        log.read(0, max_bytes=1, max_records=1),
        log.offset_for_time(0),
        log.grown(log.end_offset),
        asyncio.wait_for(waiting, 10),
    ):
        with pytest.raises(PartitionUnavailableError, match="is damaged"):
            await refused_one
    await engine.close()


async def test_no_answer_after_damage_is_known(tmp_path):
    """A group that is committed while a checkpoint finds damage is not acknowledged."""
    engine, log, files = await frozen(tmp_path / "data")
    flip(wal_of(log.path), 20_000, 0)
    commits, gate = log.life._commits, Event()
    commit = commits._commit

    def slow(mark):
        commit(mark)
        gate.wait(10)

    commits._commit = slow
    waiting = log.append(numbered(1))
    while log.life.step is not Step.GROUP:
        await turns()
    files.held = False
    log.life._begin_checkpoint()
    while log.life.failure is None:
        await turns()
    gate.set()
    with pytest.raises(OutcomeUnknownError, match="found to be damaged"):
        await waiting
    await engine.close()


async def test_a_reader_in_the_way(tmp_path):
    """A checkpoint that a reader stops ends with its first pass: no commit waits for a check of it all."""
    engine = sqlite_engine(tmp_path / "data", **SETTINGS)
    await engine.open()
    log = (await engine.create_topic(spec("orders", 1))).partitions[0]
    await log.append(batch(b"v"))
    with beside(log.path, "BEGIN", "SELECT * FROM log"):
        for _ in range(15):
            await log.append(batch(*[b"x" * 20_000] * 20))
        await log.life.rested()
        phases = []
        log.life.wake, wake = lambda: (phases.append(log.life.checkpoint.phase), wake()), log.life.wake
        log.life.checkpoint.again_at = 0.0
        log.life.wake()
        while len(phases) < 2:
            await turns()
        assert phases == [Phase.NONE, Phase.NONE]
        assert log.life.checkpoint.again_at > 0.0
    await engine.close()


@pytest.mark.parametrize("frame", [0, 20, 37])
async def test_a_frame_that_waits_for_its_copy(tmp_path, frame, native):
    """A frame that was checked, but not copied, is checked again: it may have been damaged since."""
    path = await a_file(tmp_path / "data")
    insert = "INSERT INTO records (offset, timestamp, value) VALUES (?, 0, randomblob(?))"
    with closing(connection.open_writer(path)) as db, closing(connection.open_reader(path)) as reader:
        db.execute(insert, (0, 10 * PAGE_BYTES))
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM log").fetchall()
        db.execute(insert, (1, 30 * PAGE_BYTES))
        of_wal = WalCheck(path, native)
        of_wal.check(db)
        _, copied = db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        of_wal.check(db)
        flip(wal_of(path), wal.HEAD.size + frame * FRAME_BYTES + 100, 0)
        if frame < copied:  # which does no harm any more
            of_wal.check(db)
        else:
            with pytest.raises(WalDamagedError, match=f"only {frame} are"):
                of_wal.check(db)
        reader.execute("COMMIT")


async def test_a_restarted_log(tmp_path, native):
    """What was checked of a WAL counts no more once SQLite has restarted it."""
    path = await a_file(tmp_path / "data")
    insert = "INSERT INTO records (offset, timestamp, value) VALUES (?, 0, randomblob(?))"
    with closing(connection.open_writer(path)) as db:
        of_wal = WalCheck(path, native)
        db.execute(insert, (0, 30 * PAGE_BYTES))
        of_wal.check(db)
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        db.execute(insert, (1, 40 * PAGE_BYTES))
        of_wal.check(db)
        flip(wal_of(path), wal.HEAD.size + 100, 0)
        with pytest.raises(WalDamagedError, match="only 0 are"):
            of_wal.check(db)
