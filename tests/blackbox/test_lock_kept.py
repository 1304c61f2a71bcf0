"""Whatever the broker is asked to do, it keeps its lock on each file, so that no shell removes the WAL.

test_shell.py has the control: what happens to acknowledged rows if a program loses its lock.
"""

from __future__ import annotations

import itertools
import time
from signal import SIGSTOP
from subprocess import run

import pytest

from blackbox.broker_process import Broker, command
from blackbox.clients import CALL_S_MAX, connected, consume, create_topic, eventually, produce, read_all
from blackbox.test_shell import SHELL, every_other_call, holds_lock, shell, wal_inode
from takhin.v1 import takhin_pb2 as pb

pytestmark = pytest.mark.skipif(SHELL is None, reason="the sqlite3 shell is not installed")

TOPIC = "load"  # like every_other_call
PARTITIONS = 3


def calls(broker, stub):
    """Make calls that only read, calls that change another topic or a group, and each way to consume."""
    every_other_call(stub)
    assert read_all(stub, TOPIC)
    call = consume(stub, TOPIC, partition=1)
    next(call)
    call.cancel()


def hold(broker, stub):
    """Begin a hold, copy the folder with other programs, end the hold."""
    folder = broker.data_dir
    (folder / "hold").touch()
    eventually((folder / "held").exists)
    copy = folder.with_name("copy")
    run(["cp", "-r", folder, copy], check=True)
    run(["rm", "-r", copy], check=True)
    run(["tar", "-cf", "/dev/null", "-C", folder, "topics"], check=True)
    (folder / "hold").unlink()
    eventually(lambda: not (folder / "held").exists())


def backup(broker, stub):
    """Run `takhin backup`, which reads the files beside the broker in a process of its own."""
    made = broker.data_dir.with_name("backup")
    done = run(command("backup", made, "--data-dir", broker.data_dir), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    run(["rm", "-r", made], check=True)


def checkpoint(broker, stub):
    """Produce so many records that checkpoints run and write-ahead logs are restarted."""
    for partition in range(PARTITIONS):
        for _ in range(5):
            produce(stub, TOPIC, [bytes(10_000)] * 20, partition=partition)


def metrics(broker, stub):
    """Make the calls of a monitor."""
    assert stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX).version
    run(["du", "-s", broker.data_dir], check=True, capture_output=True)


def short_lived_topics(broker, stub):
    """Create and delete topics, and try to create one that exists."""
    for number in range(2):
        create_topic(stub, f"short-lived-{number}", 5)
        assert stub.DeleteTopic(
            pb.DeleteTopicRequest(name=f"short-lived-{number}"), timeout=CALL_S_MAX
        ).success
    assert not stub.CreateTopic(pb.CreateTopicRequest(name=TOPIC), timeout=CALL_S_MAX).success


DOINGS = [calls, hold, backup, checkpoint, metrics, short_lived_topics]

KILLED_EVERY = 10


@pytest.mark.parametrize(
    "rounds", [6, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])]
)
def test_the_lock_is_kept(data_dir, rounds, figures):
    """A shell opens and closes every file after each action; SIGKILL then loses nothing acknowledged."""
    began, acked, doings = time.monotonic(), [[] for _ in range(PARTITIONS)], itertools.cycle(DOINGS)
    for first in range(0, rounds, KILLED_EVERY):
        with Broker(data_dir, storage_checkpoint_pages=20) as broker, connected(broker.address) as stub:
            if first == 0:
                create_topic(stub, TOPIC, PARTITIONS)
            for number in range(first, min(first + KILLED_EVERY, rounds)):
                note(stub, acked, b"before %d" % number)
                next(doings)(broker, stub)
                note(stub, acked, b"after %d" % number)  # so that there is a WAL with something in it
                look(broker)
                note(stub, acked, b"at last %d" % number)
            broker.send_signal(SIGSTOP)  # so that no thread gets any further before the kill
            broker.kill()
        with Broker(data_dir) as broker, connected(broker.address) as stub:
            for partition, values in enumerate(acked):
                found = [r.value for r in read_all(stub, TOPIC, partition) if not r.value.startswith(b"\0")]
                assert found == values
    took = time.monotonic() - began
    figures(f"lock kept: {rounds} doings and {rounds * PARTITIONS} looks, 0 locks or WALs gone, {took:.0f} s")


def note(stub, acked, value):
    """Append a record to each partition."""
    for partition, values in enumerate(acked):
        produce(stub, TOPIC, [value], partition=partition)
        values.append(value)


def look(broker):
    """Open and close each file in a shell that could write."""
    for partition in range(PARTITIONS):
        path = broker.partition_file(TOPIC, partition)
        wal = wal_inode(path)
        assert int(shell(path, "select count(*) from records")) > 0
        assert wal_inode(path) == wal
        assert holds_lock(broker, path)
