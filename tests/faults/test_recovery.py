"""A partition whose disk fails at an awkward moment: it recovers, or its trouble ends with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import apsw
import pytest

from blackbox.clients import eventually
from faults.failing_disk import GATE_S_MAX, Gate, Plan
from faults.test_failing_disk import Trial
from storage.support import check_files, sqlite_engine
from takhin.disk.layout import wal_of
from takhin.errors import OutcomeUnknownError, PartitionUnavailableError
from takhin.storage.sqlite.checkpoint import AGAIN_SECONDS, Phase
from takhin.testing.contract import ALL, batch, read_all, spec
from takhin.turns import others_turn

HOLDER = Path(__file__).with_name("holder.py")
CHECKPOINT_PAGES = 1_000
LONG_WAL_PAGES = 30
"""A commit beside a pass does not yet have to wait for that."""
"""More pages than a test writes: no checkpoint runs except that of an attempt to recover."""
ATTEMPT_SYNCS = ["commit", "log", "file"]
"""All syncs of an attempt, in order."""


async def test_the_last_bit_of_a_checkpoint(tmp_path, disk):
    """A failed last bit of a checkpoint is not tried again during an attempt to recover.

    By default both are due together; here the attempt begins first, and takes long.
    """
    wait_ms = AGAIN_SECONDS * 1_000 // 2
    trial = Trial(tmp_path, disk, 1, recover_wait_ms=wait_ms, checkpoint_pages=CHECKPOINT_PAGES)
    await trial.open()
    trial.plan("sync", wal=False, first=1, for_good=False, landed=False)
    life = trial.victim.log.life
    await life.cut_wal()
    disk.gate = gate = Gate("sync", wal_of(trial.path))
    await trial.is_failed()
    await asyncio.to_thread(gate.reached.wait, GATE_S_MAX)
    await asyncio.to_thread(eventually, lambda: life.checkpoint.again_at < time.monotonic())
    await trial.engine._parts.shared.threads.checkpoint.quiet()  # a checkpoint's pass would be over now
    gate.opened.set()
    disk.plan = None
    await trial.comes_back()
    assert await trial.faults_after_a_crash() == []
    await trial.close()


@pytest.mark.parametrize("kind", ["sync", "write"])
async def test_the_closing_of_an_idle_file(tmp_path, disk, kind):
    """If a file fails while it is closed for another one, its partition fails, says so, and recovers."""
    settings = {"open_partitions_max": 1, "checkpoint_pages": CHECKPOINT_PAGES, "recover_wait_ms": 10}
    engine = sqlite_engine(tmp_path / "data", ballast_bytes=0, free_bytes_low=0, **settings)
    await engine.open()
    idle, other = (await engine.create_topic(spec("t", 2))).partitions
    await idle.append(batch(b"kept"))
    disk.plan = Plan(kind, tmp_path / "data/topics/t/0.db", 1, for_good=True, wal=False)
    await other.append(batch(b"v"))
    assert disk.plan.failures
    assert any("topic 't' partition 0 failed" in trouble for trouble in engine.troubles)
    with pytest.raises(PartitionUnavailableError, match="partition 0 failed"):
        await idle.append(batch(b"refused"))
    disk.plan = None
    await asyncio.to_thread(eventually, lambda: not engine.troubles)
    await idle.append(batch(b"more"))
    assert [row[3] for row in await read_all(idle)] == [b"kept", b"more"]
    await engine.close()
    check_files(tmp_path / "data")


@pytest.mark.parametrize("first", range(1, len(ATTEMPT_SYNCS) + 1), ids=ATTEMPT_SYNCS)
async def test_an_attempt_that_fails_half_way(tmp_path, disk, first):
    """An attempt that fails at any of its syncs has updated nothing, and the next one succeeds."""
    trial = Trial(tmp_path, disk, first, checkpoint_pages=CHECKPOINT_PAGES)
    await trial.open()
    trial.plan("sync", wal=True, first=1, for_good=False, landed=False)
    await trial.until_it_fails()
    trial.plan("sync", first=first, for_good=False, landed=False)
    attempt = disk.plan
    await trial.comes_back()
    assert attempt.failures == 1
    assert await trial.faults_after_a_crash() == []
    await trial.close()


async def test_an_index_without_room_in_commit(tmp_path, disk):
    """If the -shm cannot grow after the log is synced, the error is "outcome unknown", not "disk full"."""
    trial = Trial(tmp_path, disk, 1)
    await trial.open()
    code = apsw.SQLITE_IOERR_SHMSIZE
    trial.plan("sync", wal=True, first=1, for_good=False, landed=True, code=code)
    with pytest.raises(OutcomeUnknownError, match="a change was committed to topic 't' partition 0"):
        await trial.victim.turn()
    assert await trial.faults_after_a_crash() == []
    await trial.comes_back()
    await trial.close()


async def test_a_topic_that_is_deleted(tmp_path, disk):
    """Deleting the topic ends its trouble, and its failing disk disturbs nobody."""
    trial = Trial(tmp_path, disk, 1)
    await trial.open()
    trial.plan("sync", first=1, for_good=True, landed=False)
    await trial.until_it_fails()
    await trial.is_failed()
    await trial.engine.delete_topic("t")
    assert list(trial.engine.troubles) == []
    assert not trial.path.exists()
    await trial.engine.close()


async def unsynced_pass(trial: Trial, disk) -> None:
    """Fail the sync of a checkpoint's last bit, after a pass whose pages were never synced."""
    await trial.open()
    disk.gate = gate = Gate("write", trial.path)
    while not gate.reached.is_set():  # in a pass, which syncs nothing if more is committed meanwhile
        await trial.victim.turn()
        if trial.victim.log.life.checkpoint.phase is Phase.COPYING:  # commits wait for it if they are many
            assert await asyncio.to_thread(gate.reached.wait, GATE_S_MAX)
    await trial.victim.turn()
    trial.plan("sync", wal=False, first=1, for_good=False, landed=False)
    gate.opened.set()
    await trial.until_it_fails()
    disk.plan = None


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_copied_and_never_synced_is_copied_again(tmp_path, disk, seed):
    """Pages that the kernel wrongly treats as written must not count as copied in the log's index."""
    trial = Trial(tmp_path, disk, seed, checkpoint_pages=LONG_WAL_PAGES)
    await unsynced_pass(trial, disk)
    assert await trial.faults_after_a_crash() == []
    await trial.comes_back()
    for _ in range(3):
        assert await trial.faults_after_a_crash() == []
    await trial.close()


@pytest.mark.parametrize("seed", range(2))
async def test_a_stop_after_a_failure(tmp_path, disk, seed):
    """A stop after a failure leaves the log for the next start, which copies all of it."""
    trial = Trial(tmp_path, disk, seed, recover_wait_ms=60_000, checkpoint_pages=LONG_WAL_PAGES)
    await unsynced_pass(trial, disk)
    await trial.engine.close()
    for _ in range(3):
        assert await trial.faults_after_a_crash() == []


async def until_tried(trial: Trial, times: int) -> None:
    """Wait until an attempt was made, each of which begins with a commit of its own."""
    state = trial.victim.log._state
    enough = state.mark.commits + times
    await asyncio.to_thread(eventually, lambda: state.mark.commits >= enough)


async def test_a_program_reads_while_it_fails(tmp_path, disk):
    """Recovery waits while another process has the file and its index open; reads go on."""
    trial = Trial(tmp_path, disk, 1)
    await trial.open()
    line = [sys.executable, HOLDER, trial.path, "BEGIN", "SELECT * FROM log"]
    with subprocess.Popen(line, stdin=PIPE, stdout=PIPE) as holder:  # noqa: ASYNC220  see children.py
        assert await asyncio.to_thread(holder.stdout.readline) == b"ready\n"
        trial.plan("sync", wal=True, first=1, for_good=False, landed=False)
        await trial.until_it_fails()
        disk.plan = None
        await until_tried(trial, times=3)
        log = trial.victim.log
        while log._file.is_open:  # until the middle of an attempt
            await others_turn()
        await log.read(log.start_offset, **ALL)
        await trial.is_failed()
        assert await trial.faults_after_a_crash() == []
    assert holder.returncode == 0
    await trial.comes_back()
    await trial.close()
