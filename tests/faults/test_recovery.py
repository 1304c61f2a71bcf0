"""A partition whose disk fails at an awkward moment: it comes back, or its trouble goes with it."""

from __future__ import annotations

import apsw
import pytest

from faults.failing_disk import Gate, failing_disk
from faults.test_failing_disk import Trial
from takhin.errors import OutcomeUnknownError
from takhin.settings import StorageSettings
from takhin.storage.checkpoint import AGAIN_SECONDS

CHECKPOINT_PAGES = 1_000
"""More than a test writes: no checkpoint runs but that of an attempt to recover."""
ATTEMPT_SYNCS = ["old log", "file", "new log's header", "commit", "log when closed", "file when closed"]
"""All of an attempt, in order."""


@pytest.fixture
def disk():
    with failing_disk() as made:
        yield made


async def test_the_last_bit_of_a_checkpoint(tmp_path, disk):
    """It would be tried again at the very moment of the attempt to recover; the two do not meet."""
    wait_ms = StorageSettings().recover_wait_ms
    assert wait_ms == AGAIN_SECONDS * 1_000
    trial = Trial(tmp_path, disk, 1, recover_wait_ms=wait_ms)
    await trial.open()
    disk.gate = gate = Gate("sync", trial.path)
    while not gate.reached.is_set():
        await trial.victim.turn()
    await trial.victim.turn()  # so that the pass leaves something for the last bit
    trial.plan("sync", wal=False, first=2, for_good=False, landed=False)
    gate.opened.set()
    await trial.run(for_good=False)


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
