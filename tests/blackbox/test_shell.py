"""The sqlite3 shell beside a running broker sees whole batches and disturbs nobody.

The control shows what happens to acknowledged rows when a program opens and closes its own file with apsw.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from blackbox.broker_process import Broker, environment
from blackbox.clients import CALL_S_MAX, connected, create_topic, end_offset, eventually, produce
from blackbox.load import PARTITIONS, TOPIC, Journal, losses, produce_and_kill, read_back
from takhin.v1 import takhin_pb2 as pb

SHELL = shutil.which("sqlite3")

pytestmark = pytest.mark.skipif(SHELL is None, reason="the sqlite3 shell is not installed")

LOOKS = 10
"""How often the shell reads each partition under load."""


def shell(path, sql, *options):
    """What the shell prints; it must not report an error."""
    done = subprocess.run(
        [SHELL, *options, path, sql], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def holds_lock(broker, path):
    """True if the broker's process holds SQLite's shared lock on the file, which is one POSIX lock.

    Its descriptors are asked. A reading of /proc/locks lacks some where others lock and unlock meanwhile.
    """
    inode = path.stat().st_ino
    held = re.compile(rf"POSIX +ADVISORY +READ +{broker.pid} +\w+:\w+:{inode} 1073741826 ")
    for descriptor in Path(f"/proc/{broker.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # one that was open for a moment
            if held.search(descriptor.read_text()):
                return True
    return False


def wal_inode(path):
    return path.with_name(f"{path.name}-wal").stat().st_ino


def every_other_call(stub):
    """Calls that only read, and calls that change another topic or a group."""
    create_topic(stub, "other")
    produce(stub, "other", [b"v"])
    offsets = [pb.TopicPartitionOffset(topic=TOPIC, partition=n, offset=0) for n in range(PARTITIONS)]
    for group_id in ("kept", "dropped"):
        commit = pb.CommitOffsetRequest(group_id=group_id, offsets=offsets)
        assert stub.CommitOffset(commit, timeout=CALL_S_MAX).success
    for method, request in (
        ("ListTopics", pb.ListTopicsRequest()),
        ("GetTopic", pb.GetTopicRequest(name=TOPIC)),
        ("DescribeTopics", pb.DescribeTopicsRequest(topics=[TOPIC, "other"])),
        ("GetPartitionOffsets", pb.GetPartitionOffsetsRequest(topic=TOPIC)),
        ("GetOffsetsForTimes", pb.GetOffsetsForTimesRequest(queries=[pb.TopicPartitionTime(topic=TOPIC)])),
        ("DeleteRecords", pb.DeleteRecordsRequest(topic="other", before_offset=-1)),
        ("GetCommittedOffsets", pb.GetCommittedOffsetsRequest(group_id="kept")),
        ("ListConsumerGroups", pb.ListConsumerGroupsRequest()),
        ("DescribeConsumerGroup", pb.DescribeConsumerGroupRequest(group_id="kept")),
        ("DeleteConsumerGroup", pb.DeleteConsumerGroupRequest(group_id="dropped")),
        ("DeleteTopic", pb.DeleteTopicRequest(name="other")),
        ("HealthCheck", pb.HealthCheckRequest()),
    ):
        response = getattr(stub, method)(request, timeout=CALL_S_MAX)
        assert not getattr(response, "error", "")


def look(broker, partition):
    """Read a partition's number of records with the shell. The broker's files must stay unchanged."""
    path = broker.partition_file(TOPIC, partition)
    wal = wal_inode(path)
    first = shell(path, "select offset, timestamp > 0, length(value) > 0 from records limit 3", "-readonly")
    assert first == "0|1|1\n1|1|1\n2|1|1\n"
    texts = shell(
        path,
        "select offset, time like '20__-__-__T%Z', value is null, length(value_hex) > 0, json_valid(headers) "
        "from records_text limit 1",
        "-readonly",
    )
    assert re.fullmatch(r"0\|1\|[01]\|1?\|1\n", texts)
    group, committed, behind = shell(
        path, "select group_id, committed_offset, lag from lag", "-readonly"
    ).split("|")
    assert (group, committed) == ("kept", "0")
    range_ = "select start_offset, end_offset, (select count(*) from records) from log"
    start, end, count = map(int, shell(path, range_).split("|"))  # a shell that may write
    assert start == 0
    assert count == end >= int(behind)
    assert shell(path, "select 1") == "1\n"
    assert wal_inode(path) == wal
    assert holds_lock(broker, path)
    return count


async def test_a_shell_looks_in_under_load_and_nothing_is_lost(data_dir, figures):
    """A shell sees records and views while sixteen write; after SIGKILL everything acknowledged is there."""
    journal = Journal.new()
    seen = {partition: [] for partition in range(PARTITIONS)}

    def look_in():
        with connected(broker.address) as stub:
            eventually(lambda: min(end_offset(stub, TOPIC, partition) for partition in seen) >= 3)
            every_other_call(stub)
            for _ in range(LOOKS):
                for partition, counts in seen.items():
                    counts.append(look(broker, partition))

    with Broker(data_dir) as broker:
        with connected(broker.address) as stub:
            create_topic(stub, TOPIC, PARTITIONS)
        await produce_and_kill(broker, journal, "shell", asyncio.to_thread(look_in))
    with Broker(data_dir) as broker:
        assert losses(journal, read_back(broker)) == []
    for counts in seen.values():
        assert counts == sorted(counts)
        assert counts[0] < counts[-1]
    figures(f"shell: {LOOKS * PARTITIONS} looks under load, {journal.acked_records()} acked, 0 lost")


def test_a_serving_broker_has_one_sqlite(broker, stub):
    """The process maps neither Python's sqlite3 nor the system's library, only apsw."""
    create_topic(stub, "topic")
    produce(stub, "topic", [b"v"])
    mapped = {
        Path(line.split()[-1]).name for line in Path(f"/proc/{broker.pid}/maps").read_text().splitlines()
    }
    assert not [name for name in mapped if name.startswith(("_sqlite3", "libsqlite3"))]
    assert "apsw" in Path(f"/proc/{broker.pid}/maps").read_text()


def test_a_readonly_shell_sees_what_was_just_acknowledged(broker, stub):
    """A -readonly shell sees each record as soon as it is acknowledged, and leaves no file behind."""
    create_topic(stub, "topic")
    path = broker.partition_file("topic")
    before = None
    for number in range(5):
        produce(stub, "topic", [b"%d" % number])
        assert shell(path, "select max(offset) from records", "-readonly") == f"{number}\n"
        files = sorted(entry.name for entry in path.parent.iterdir())
        assert files == (before := before or files)
    assert shell(path, "select value from records_text order by offset", "-readonly") == "0\n1\n2\n3\n4\n"


FORBIDDEN = """
import sys
import apsw

db = apsw.Connection(sys.argv[1])
for pragma in ("journal_mode = WAL", "synchronous = FULL"):
    db.execute(f"PRAGMA {pragma}").fetchall()
db.execute("CREATE TABLE acked (n INTEGER PRIMARY KEY)")

def commit(numbers):
    for n in numbers:
        db.execute("INSERT INTO acked VALUES (?)", (n,))

commit(range(10))
if sys.argv[2] == "forbidden":
    open(sys.argv[1], "rb").close()
print("now the shell", flush=True)
sys.stdin.readline()
commit(range(10, 20))
print("acked 20", flush=True)
sys.stdin.readline()
"""
"""A program that commits durably, reads its own file as the broker never may, and commits again."""


@pytest.mark.control
@pytest.mark.parametrize(("manner", "kept"), [("allowed", 20), ("forbidden", 10)])
def test_opening_its_own_file_would_lose_rows(tmp_path, manner, kept):
    """Control: after the forbidden open a shell that only reads costs acknowledged rows; otherwise none."""
    path = tmp_path / "control.db"
    program = [sys.executable, "-c", FORBIDDEN, path, manner]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as child:
        try:
            assert child.stdout.readline() == b"now the shell\n"
            wal = wal_inode(path)
            assert shell(path, "select count(*) from acked") == "10\n"
            assert path.with_name("control.db-wal").exists() == (manner == "allowed")
            child.stdin.write(b"go on\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"acked 20\n"
            assert manner == "forbidden" or wal_inode(path) == wal
        finally:
            child.kill()
    assert shell(path, "pragma integrity_check; select count(*) from acked") == f"ok\n{kept}\n"
