"""`takhin backup`: whole beside a running broker, resumable, and refused where it would do harm."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading

import pytest

import forked
from blackbox.broker_process import Broker, command
from blackbox.clients import connected, create_topic, produce
from copies.folders import TOPIC, content, file, fill, flip_value, tree
from takhin.copies.backup import backup
from takhin.copies.restore import restore
from takhin.copies.verify import verify
from takhin.errors import CopyError
from takhin.v1 import takhin_pb2 as pb


def takhin(*args: object) -> subprocess.CompletedProcess[str]:
    return forked.run(command(*args), capture_output=True, text=True, timeout=60, check=False)


async def test_beside_a_busy_broker(tmp_path):
    """A backup has what was acknowledged before it, whole batches, and no committed offset beyond the end."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    ended = threading.Event()
    with Broker(data) as broker, connected(broker.address) as stub:
        create_topic(stub, TOPIC, 2)

        def load(partition: int) -> None:
            while not ended.is_set():
                first = produce(stub, TOPIC, [b"%d" % n for n in range(50)], partition=partition)
                acked[partition] = first + 50
                offset = pb.TopicPartitionOffset(topic=TOPIC, partition=partition, offset=first + 50)
                request = pb.CommitOffsetRequest(group_id="g", offsets=[offset])
                assert stub.CommitOffset(request, timeout=20).success

        acked = [0, 0]
        threads = [threading.Thread(target=load, args=(partition,)) for partition in (0, 1)]
        for thread in threads:
            thread.start()
        try:
            before = []
            for n in range(3):
                before.append(list(acked))
                done = takhin("backup", copy / str(n), "--data-dir", data)
                assert (done.returncode, done.stderr) == (0, "")
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    for n, acked_before in enumerate(before):
        report = verify(copy / str(n))
        assert report.ok, report
        ends = [found.end_offset for found in report.partitions]
        assert all(end >= least and end % 50 == 0 for end, least in zip(ends, acked_before, strict=True))
    assert 0 < before[1][0] < before[2][0]
    restore(copy / "2", tmp_path / "again")
    for rows, end in zip((await content(tmp_path / "again"))[TOPIC], ends, strict=True):
        assert [row[3] for row in rows] == [b"%d" % (n % 50) for n in range(end)]


async def test_of_a_killed_broker(killed, tmp_path):
    """A crash's write-ahead logs are in the backup, each file stands alone, and the source is unchanged."""
    data, copy = killed, tmp_path / "copy"
    assert file(data).with_name("0.db-wal").stat().st_size
    before = tree(data)
    made = backup(data, copy)
    assert {name: made for name, made in tree(data).items() if "-shm" not in name} == {
        name: made for name, made in before.items() if "-shm" not in name
    }
    assert sorted(tree(copy)) == ["backup.json", f"topics/{TOPIC}/0.db", f"topics/{TOPIC}/1.db"]
    assert made.complete
    assert [of["end_offset"] for of in made.partitions.values()] == [600, 600]
    assert verify(copy).ok
    restore(copy, tmp_path / "again")
    assert await content(tmp_path / "again") == await content(data)


async def test_pages_out_of_a_write_ahead_log_get_checksums(data, tmp_path):
    """Pages get checksums, which they lack in a log, even if they are written in several portions."""
    await fill(data, records=100, killed=True)
    backup(data, tmp_path / "copy")
    report = verify(tmp_path / "copy")
    assert report.ok, report


def test_a_stopped_broker_s_folder_is_left_as_it_was(data, tmp_path):
    """Neither backup nor verify leaves a file behind."""
    before = tree(data)
    backup(data, tmp_path / "copy")
    assert verify(data).ok
    assert tree(data) == before


def test_goes_on_where_it_stopped(data, tmp_path):
    """A damaged partition stops the backup and is named; once it is whole, only that one is copied."""
    copy = tmp_path / "copy"
    whole = file(data, 1).read_bytes()
    flip_value(file(data, 1), 300)
    with pytest.raises(CopyError, match=re.escape(f"{file(data, 1)} is damaged: a page does not match")):
        backup(data, copy)
    assert sorted(tree(copy)) == ["backup.json", f"topics/{TOPIC}/0.db"]
    assert not json.loads((copy / "backup.json").read_text())["complete"]
    assert any("incomplete" in fault for fault in verify(copy).faults)
    with pytest.raises(CopyError, match="incomplete"):
        restore(copy, tmp_path / "again")
    copied = file(copy).stat()
    file(data, 1).write_bytes(whole)
    assert backup(data, copy).complete
    assert (file(copy).stat().st_ino, file(copy).stat().st_mtime_ns) == (copied.st_ino, copied.st_mtime_ns)
    assert verify(copy).ok
    with pytest.raises(CopyError, match="is a complete backup"):
        backup(data, copy)


async def test_another_topic_of_the_name_is_copied_anew(data, tmp_path):
    """The earlier backup of a deleted topic is not mixed with the new topic of that name."""
    copy = tmp_path / "copy"
    flip_value(file(data, 1), 300)
    with pytest.raises(CopyError):
        backup(data, copy)
    shutil.rmtree(data / "topics" / TOPIC)
    await fill(data, records=200)
    assert [of["end_offset"] for of in backup(data, copy).partitions.values()] == [200, 200]
    assert verify(copy).ok


async def test_a_topic_deleted_meanwhile(data, tmp_path):
    """A topic that is deleted meanwhile is left out completely, and named."""
    copy = tmp_path / "copy"
    await fill(data, topic="payments")

    def delete(_done: int, _of: int) -> None:
        if (data / "topics" / TOPIC).exists():
            shutil.rmtree(data / "topics" / TOPIC)

    made = backup(data, copy, progress=delete)
    assert (made.left_out, list(made.topics), made.complete) == ([TOPIC], ["payments"], True)
    assert [path.name for path in (copy / "topics").iterdir()] == ["payments"]
    assert verify(copy).ok


def test_where_no_backup_belongs(data, tmp_path):
    """No backup is made into a folder with other files or the data folder itself, or of another folder."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    for source, destination, sentence in (
        (data, other, "is not empty and is not a backup"),
        (data, data / "topics" / "copy", "is inside the data folder"),
        (other, tmp_path / "new", "is neither a data folder"),
        (data, other / "notes.txt", "cannot make the backup"),
    ):
        with pytest.raises(CopyError, match=sentence):
            backup(source, destination)
    assert sorted(path.name for path in (data / "topics").iterdir()) == [TOPIC]
    assert [path.name for path in other.iterdir()] == ["notes.txt"]
    assert not (tmp_path / "new").exists()


def test_the_command(data, tmp_path):
    """The command prints a line or a JSON document on stdout, and an error as one line on stderr."""
    done = takhin("backup", tmp_path / "copy", "--data-dir", data, "--json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "copy" / "backup.json").read_text())
    done = takhin("backup", tmp_path / "copy", "--data-dir", data)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"takhin: .* is a complete backup, .*: name a new folder\n", done.stderr)
    done = takhin("backup", tmp_path / "second", "--data-dir", data)
    line = rf"backed up 1 topic, 2 partitions, [0-9.]+ MB to {tmp_path}/second\n"
    assert re.fullmatch(line, done.stdout), done
