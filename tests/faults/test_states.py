"""What the engine says of its partitions and counts of its work, while disks are sound and when they fail."""

from __future__ import annotations

import asyncio

import pytest

from blackbox.clients import eventually
from faults.failing_disk import GATE_S_MAX, Gate, Plan
from storage.support import sqlite_engine
from takhin.errors import OutcomeUnknownError
from takhin.model import CommittedOffset, PartitionState, TopicPartition
from takhin.testing.contract import NOW, batch, numbered, spec

QUIET = {"ballast_bytes": 0, "free_bytes_low": 0, "checkpoint_pages": 1_000}


async def test_a_partition_goes_through_its_states(tmp_path, disk):
    """Failed by a COMMIT whose sync fails, recovering while it is tried again, and then open."""
    engine = sqlite_engine(tmp_path / "data", **QUIET, recover_wait_ms=100)
    await engine.open()
    (log,) = (await engine.create_topic(spec("t"))).partitions
    await log.append(numbered(3))
    assert log.state is PartitionState.OPEN
    path = tmp_path / "data/topics/t/0.db"
    disk.plan = Plan("sync", path, 1, for_good=True, wal=True)
    with pytest.raises(OutcomeUnknownError):
        await log.append(batch(b"lost"))
    assert log.state is PartitionState.FAILED
    assert engine.meters.topic("t").appended_records == 3
    assert engine.meters.commit_seconds.cumulative()[-1] == 1
    disk.plan = None
    disk.gate = gate = Gate("sync", path)
    await asyncio.to_thread(gate.reached.wait, GATE_S_MAX)
    assert log.state is PartitionState.RECOVERING
    gate.opened.set()
    trying = {PartitionState.FAILED, PartitionState.RECOVERING}
    await asyncio.to_thread(eventually, lambda: log.state not in trying)
    await log.append(batch(b"more"))
    assert log.state is PartitionState.OPEN
    await engine.close()


async def test_closed_files_and_those_that_cannot_be_served(tmp_path):
    """Where fewer files are open than there are, the others are closed; one that is damaged has failed."""
    engine = sqlite_engine(tmp_path / "data", **QUIET, open_partitions_max=1)
    await engine.open()
    for log in (await engine.create_topic(spec("t", 3))).partitions:
        await log.append(numbered(1))
    states = [log.state for log in engine.topics["t"].partitions]
    assert sorted(states) == [PartitionState.CLOSED, PartitionState.CLOSED, PartitionState.OPEN]
    assert engine.stats()["open_files"] == 1
    await engine.close()
    (tmp_path / "data/topics/t/1.db").write_bytes(b"no database")
    engine = sqlite_engine(tmp_path / "data", **QUIET)
    await engine.open()
    assert engine.topics["t"].partitions[1].state is PartitionState.FAILED
    await engine.close()


async def test_commit_groups_and_checkpoints_are_counted(tmp_path):
    """Each COMMIT once with the records and bytes of its group, offsets as a group without records."""
    engine = sqlite_engine(tmp_path / "data", **QUIET)
    await engine.open()
    (log,) = (await engine.create_topic(spec("t"))).partitions
    for count in (1, 2, 3):
        await log.append(numbered(count))
    await engine.offsets.commit("g", {TopicPartition("t", 0): CommittedOffset(1, "", NOW)})
    meters = engine.meters
    assert (meters.group_records.cumulative()[-1], meters.group_records.sum) == (4, 6)
    assert meters.group_records.counts[0] == 2  # of one record, and of none
    assert 0 < meters.commit_seconds.sum < 60
    assert meters.commit_seconds.cumulative()[-1] == meters.group_bytes.cumulative()[-1] == 4
    assert meters.checkpoint_seconds.cumulative()[-1] == 0
    await log.life.cut_wal()
    assert meters.checkpoint_seconds.cumulative()[-1] == 1
    assert 0 < meters.checkpoint_seconds.sum < 60
    await engine.close()


async def test_the_disk_in_numbers(tmp_path):
    """Free and total bytes, the ballast, and that neither is short."""
    engine = sqlite_engine(tmp_path / "data", ballast_bytes=1 << 20, free_bytes_low=0)
    await engine.open()
    stats = engine.stats()
    assert 0 < stats["disk_free_bytes"] <= stats["disk_total_bytes"]
    assert (stats["ballast_bytes"], stats["disk_full"], stats["disk_low"]) == (1 << 20, 0, 0)
    await engine.close()
