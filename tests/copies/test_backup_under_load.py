"""`takhin backup` beside the load of sixteen producers: every backup is whole, and a broker starts on it."""

from __future__ import annotations

import asyncio
import time

import pytest

import children
from blackbox.broker_process import Broker, command
from blackbox.clients import CALL_S_MAX, connected, create_topic, end_offset
from blackbox.copies import Copy, counted, incarnations
from blackbox.load import PARTITIONS, TOPIC, Journal, losses, producing, read_back
from takhin.copies.restore import restore
from takhin.copies.verify import verify
from takhin.v1 import takhin_pb2 as pb

ROUND = 5
"""The number of backups per broker."""


def commit_ends(stub):
    """Commit a group's offsets at the current ends."""
    at = [(partition, end_offset(stub, TOPIC, partition)) for partition in range(PARTITIONS)]
    offsets = [pb.TopicPartitionOffset(topic=TOPIC, partition=n, offset=end) for n, end in at]
    request = pb.CommitOffsetRequest(group_id="group", offsets=offsets)
    assert stub.CommitOffset(request, timeout=CALL_S_MAX).success


async def backups(tmp_path, number, count):
    """Run a broker under load with small checkpoints, make backups, and restore them afterwards."""
    journal, made, folder = Journal.new(), [], tmp_path / f"data {number}"
    settings = {"storage_checkpoint_pages": 8, "storage_ballast_bytes": 0}
    with Broker(folder, **settings) as broker, connected(broker.address) as stub:
        create_topic(stub, TOPIC, PARTITIONS)
        async with producing(broker.address, journal, f"round {number}"):
            await asyncio.sleep(0.3)
            for n in range(count):
                await asyncio.to_thread(commit_ends, stub)
                before, copy = journal.as_of_now(), tmp_path / f"backup {number}.{n}"
                line = command("backup", copy, "--data-dir", folder)
                await children.run(*line)
                made.append((copy, before, journal.as_of_now()))
        originals = await asyncio.to_thread(incarnations, stub, TOPIC)
        assert losses(journal, await asyncio.to_thread(read_back, broker)) == []
    restored = []
    for copy, before, after in made:
        assert after.acked_records() > before.acked_records(), "no writes beside the backup"
        report = verify(copy)
        assert report.ok, report
        again = copy.with_name(f"{copy.name} again")
        restore(copy, again)
        restored.append(Copy(again, before, after, originals))
    return restored


@pytest.mark.parametrize(
    "count", [2, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])]
)
async def test_every_backup_is_whole(tmp_path, count, figures):
    """A backup has everything acknowledged before it began, in order, and nothing that was not sent."""
    began, bad = time.monotonic(), 0
    for number, first in enumerate(range(0, count, ROUND)):
        made = await backups(tmp_path, number, min(ROUND, count - first))
        bad += await asyncio.to_thread(counted, made)
    figures(f"takhin backup under load: {count} backups, {bad} bad, {time.monotonic() - began:.0f} s")
    assert bad == 0
