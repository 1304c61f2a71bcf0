"""A partition whose disk fails at an awkward moment: it comes back, or its trouble goes with it."""

from __future__ import annotations

import asyncio

import apsw
import pytest

from blackbox.clients import eventually
from faults.failing_disk import GATE_S_MAX, Gate, failing_disk
from faults.test_failing_disk import Trial
from takhin.errors import OutcomeUnknownError
from takhin.storage.checkpoint import AGAIN_SECONDS
from takhin.storage.connection import wal_of

CHECKPOINT_PAGES = 1_000
"""More than a test writes: no checkpoint begins by itself but in an attempt to recover."""
ATTEMPT_SYNCS = ["old log", "file", "new log's header", "commit", "log when closed", "file when closed"]
"""All of an attempt, in order."""
COMMIT_SYNC = 3
"""Among those of the log."""


@pytest.fixture
def disk():
    with failing_disk() as made:
        yield made


async def test_the_last_bit_of_a_checkpoint(tmp_path, disk):
    """It would be tried again in the midst of the attempt to recover: the two do not meet.

    By default both come due together; here the attempt begins first, and takes long.
    """
    wait_ms = AGAIN_SECONDS * 1_000 // 2
    trial = Trial(tmp_path, disk, 1, recover_wait_ms=wait_ms, checkpoint_pages=CHECKPOINT_PAGES)
    await trial.open()
    trial.plan("sync", wal=False, first=1, for_good=False, landed=False)
    writer = trial.victim.log._writer
    await writer.cut_wal()
    disk.gate = gate = Gate("sync", wal_of(trial.path), COMMIT_SYNC)
    await trial.is_failed()
    await asyncio.to_thread(gate.reached.wait, GATE_S_MAX)
    await asyncio.to_thread(eventually, lambda: writer._checkpoints._again is None)
    await trial.engine._quiet()  # what a checkpoint's pass would have done is done
    gate.opened.set()
    disk.plan = None
    await trial.comes_back()
    assert await trial.faults_after_a_crash() == []
    await trial.close()


@pytest.mark.parametrize("first", range(1, len(ATTEMPT_SYNCS) + 1), ids=ATTEMPT_SYNCS)
async def test_an_attempt_that_fails_half_way(tmp_path, disk, first):
    """At each of its syncs: it has counted nothing if it has to be tried again, and that succeeds."""
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
    """The -shm grows after the log is synced: told that the disk is full, one would send the batch again."""
    trial = Trial(tmp_path, disk, 1)
    await trial.open()
    code = apsw.SQLITE_IOERR_SHMSIZE
    trial.plan("sync", wal=True, first=1, for_good=False, landed=True, code=code)
    with pytest.raises(OutcomeUnknownError, match="topic 't' partition 0"):
        await trial.victim.turn()
    assert await trial.faults_after_a_crash() == []
    await trial.comes_back()
    await trial.close()


async def test_a_topic_that_is_deleted(tmp_path, disk):
    """Its trouble goes with it, and its failing disk is in nobody's way."""
    trial = Trial(tmp_path, disk, 1)
    await trial.open()
    trial.plan("sync", first=1, for_good=True, landed=False)
    await trial.until_it_fails()
    await trial.is_failed()
    await trial.engine.delete_topic("t")
    assert list(trial.engine.troubles) == []
    assert not trial.path.exists()
    await trial.engine.close()
