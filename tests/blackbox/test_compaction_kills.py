"""SIGKILL during a compaction: whatever the moment, it ends at the same records as an undisturbed one."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from blackbox.broker_process import Broker
from blackbox.clients import CALL_S_MAX, connected
from takhin.v1 import takhin_pb2 as pb

RECORDS, RECORDS_SOAK, KEYS, BATCH = 120_000, 1_200_000, 1_500, 4_000
KILLS, KILLS_SOAK = 4, 20
PASS_S_MAX = 120
CONFIGS = {"cleanup.policy": "compact", "delete.retention.ms": "0"}
QUIET = {"topics_compaction_look_ms": 3_600_000}
"""Settings by which only a call begins a pass."""
DUMP = (
    "SELECT offset, timestamp, hex(key), hex(value), (SELECT group_concat(key || hex(value)) FROM headers "
    "WHERE headers.offset = records.offset) FROM records ORDER BY offset"
)


def fill(broker: Broker, records_wanted: int) -> dict[bytes, bytes]:
    """Produce records of few keys, some of them tombstones and some with headers; the last value of each."""
    chance, last = random.Random(7), {}
    with connected(broker.address) as stub:
        assert stub.CreateTopic(pb.CreateTopicRequest(name="t", configs=CONFIGS), timeout=CALL_S_MAX).success
        for first in range(0, records_wanted, BATCH):
            records = []
            for number in range(first, first + BATCH):
                key, value = b"%d" % chance.randrange(KEYS), b"%d" % number
                record = pb.Record(key=key, timestamp=1_000 + number)
                if number % 10:
                    record.value = value
                if number % 7 == 0:
                    record.headers.add(key="n", value=value)
                records.append(record)
                last[key] = value if number % 10 else None
            sent = pb.ProduceMessageRequest(topic="t", records=records)
            assert not stub.ProduceMessage(sent, timeout=CALL_S_MAX).error
    return {key: value for key, value in last.items() if value is not None}


def compact(broker: Broker, times: int = 1) -> None:
    with connected(broker.address) as stub:
        for _ in range(times):
            assert stub.CompactTopic(pb.CompactTopicRequest(name="t"), timeout=PASS_S_MAX).success


def dump(data: Path) -> str:
    """All records of a closed file, with their headers."""
    uri = f"file:{data / 'topics' / 't' / '0.db'}?immutable=1"
    return subprocess.run(["sqlite3", uri, DUMP], capture_output=True, text=True, check=True).stdout


def begin(broker: Broker) -> threading.Thread:
    def ask() -> None:
        with suppress(grpc.RpcError), connected(broker.address) as stub:
            stub.CompactTopic(pb.CompactTopicRequest(name="t"), timeout=PASS_S_MAX)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


FULL = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("kills", "records"), [(KILLS, RECORDS), pytest.param(KILLS_SOAK, RECORDS_SOAK, marks=FULL)]
)
def test_a_killed_pass_ends_at_the_same_records(data_dir, kills, records, figures):
    """Also its tombstones go; a fresh reader gets the last value of each key, and nothing else."""
    with Broker(data_dir, **QUIET) as broker:
        expected = fill(broker, records)
    undisturbed = data_dir.with_name("undisturbed")
    shutil.copytree(data_dir, undisturbed)
    with Broker(undisturbed, **QUIET) as broker:
        began = time.monotonic()
        compact(broker)
        took_s = time.monotonic() - began
        compact(broker)  # for the tombstones that the first pass saw
    chance = random.Random(kills)
    for _ in range(kills):
        with Broker(data_dir, **QUIET) as killed:
            asking = begin(killed)
            time.sleep(chance.uniform(0, took_s / 2))  # the moment is what is tried
            killed.kill()
            asking.join()
    with Broker(data_dir, **QUIET) as broker:
        compact(broker, times=2)
    left = dump(data_dir)
    assert left == dump(undisturbed)
    found = {}
    for line in left.splitlines():
        _, _, key, value, *_ = line.split("|")
        found[bytes.fromhex(key)] = bytes.fromhex(value) or None
    assert {key: value for key, value in found.items() if value is not None} == expected
    figures(f"SIGKILL in a compaction: {kills} kills of {took_s:.1f} s passes, the same {len(found)} records")
