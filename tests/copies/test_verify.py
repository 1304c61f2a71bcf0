"""`takhin verify` finds damage, says where it is, and reports none where there is none."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from takhin.schema import VERSION

import forked
from blackbox.broker_process import Broker, command
from blackbox.clients import connected, create_topic, produce
from copies.folders import PAGE, TOPIC, file, flip, flip_value, given, in_child, tree, value
from storage.support import alter
from takhin.copies.backup import backup
from takhin.copies.verify import verify
from takhin.disk.layout import wal_of
from takhin.errors import CopyError
from takhin.query.topic import TopicFiles

NOBODY = 65_534


def test_nothing_where_nothing_is(data, killed, tmp_path):
    """A stopped broker's folder, a killed one's, a copy of it, and a backup are all sound."""
    backup(data, tmp_path / "copy")
    for folder, kind in ((data, "data"), (killed, "data"), (tmp_path / "copy", "backup")):
        report = verify(folder)
        assert report.ok, report
        assert report.kind == kind
        assert [(found.start_offset, found.end_offset) for found in report.partitions] == [(0, 600)] * 2


@pytest.mark.parametrize("version", range(1, VERSION))
def test_an_older_schema(version, tmp_path):
    """A folder of an earlier version is sound, though it lacks what came later."""
    with tarfile.open(Path(__file__).parents[1] / f"fixtures/schema-{version}.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    report = verify(tmp_path)
    assert report.ok, report
    assert [found.end_offset for found in report.partitions] == [3_004, 10, 0]


def test_beside_a_running_broker(tmp_path):
    """A folder is sound while records come in, also into files that are not open."""
    data = tmp_path / "data"
    with Broker(data, storage_open_partitions_max=2) as broker, connected(broker.address) as stub:
        create_topic(stub, TOPIC, 4)
        for n in range(10):
            for partition in range(4):
                produce(stub, TOPIC, [b"x"] * 100, partition=partition)
            report = verify(data)
            assert report.ok, report
            assert [found.end_offset for found in report.partitions] == [(n + 1) * 100] * 4


def test_a_flipped_bit_in_a_log_in_use(tmp_path):
    """verify sees the damage at once; SQLite sees it only when it recovers the log after the broker's end."""
    data = tmp_path / "data"
    with Broker(data, storage_checkpoint_pages=10_000) as broker, connected(broker.address) as stub:
        create_topic(stub, TOPIC, 2)
        for number in range(20):
            for partition in range(2):
                produce(stub, TOPIC, [value(number)] * 20, partition=partition)
        assert verify(data).ok
        flip_value(wal_of(file(data)), 7)
        first, second = verify(data).partitions
        assert second.ok
        sentence = (
            r"frame \d+ of 0\.db-wal does not match its checksum \(page \d+\); the damage is in 0\.db-wal"
        )
        assert re.fullmatch(sentence, "; ".join(first.faults))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("state", ["stopped", "killed", "copied", "running"])
def test_by_somebody_who_may_only_read(made, state):
    """Another user, who may write nothing, verifies any folder, and leaves no file beside its files."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        Path(place).chmod(0o755)
        data = given(
            made / ("stopped" if state == "running" else state.replace("copied", "killed")),
            Path(place, "data"),
        )
        if state == "copied":  # by a tool that leaves out what SQLite makes again
            for index in data.rglob("*-shm"):
                index.unlink()
        if state == "running":
            broker = stack.enter_context(Broker(data))
            with connected(broker.address) as stub:
                produce(stub, TOPIC, [b"x"])
        before = {path: path.stat().st_mtime_ns for path in (data / "topics").rglob("*")}

        def look() -> None:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            report = verify(data)
            assert report.ok, report
            assert len(TopicFiles(data, TOPIC).paths) == 2  # as `takhin sql` sees it

        assert in_child(look) == 0
        assert {path: path.stat().st_mtime_ns for path in (data / "topics").rglob("*")} == before


def test_a_copy_without_an_index(killed):
    """Nothing is made beside a file with a -wal but no -shm, also by somebody who may write."""
    for index in killed.rglob("*-shm"):
        index.unlink()
    before = tree(killed)
    report = verify(killed)
    assert report.ok, report
    assert [found.end_offset for found in report.partitions] == [600, 600]
    assert tree(killed) == before


PRODUCER = "x'00ff" + 14 * "70" + "'"

FAULTS = {
    "a flipped bit": (
        lambda data: flip_value(file(data), 300),
        r"a page does not match its checksum; 1 of \d+ pages do not match their checksums: \d+",
    ),
    "in the header": (lambda data: flip(file(data), 20), "its header says that its pages have no checksums"),
    "another schema": (
        lambda data: alter(file(data), "DROP TABLE committed_offsets"),
        "it has no table committed_offsets",
    ),
    "a record too few": (
        lambda data: alter(file(data), "DELETE FROM records WHERE offset = 77"),
        "not every record from offset 0 to 599 is in the file: it has 599, with offsets from 0 to 599",
    ),
    "none at the end": (
        lambda data: alter(file(data), "UPDATE log SET end_offset = 601, commits = commits + 1"),
        "not every record from offset 0 to 600 is in the file: it has 600, with offsets from 0 to 599",
    ),
    "a header alone": (
        lambda data: alter(file(data), "INSERT INTO headers VALUES (600, 0, 'key', x'00')"),
        "there is a header of offset 600, which has no record",
    ),
    "committed too far": (
        lambda data: alter(file(data), "UPDATE committed_offsets SET offset = 601"),
        "group 'billing' has committed offset 601, and the log ends at 600",
    ),
    "sent too far": (
        lambda data: alter(file(data), f"INSERT INTO producer_batches VALUES ({PRODUCER}, 0, 7, 2, 599, 0)"),
        "producer 00ff(70){14} is said to have sent records up to 600, and the log ends at 600",
    ),
    "an impossible source": (
        lambda data: alter(file(data), "INSERT INTO sources VALUES ('g', 'of', -5, 'in', 2)"),
        "offset -5 of topic 'in' partition 2 was taken for group 'g'",
    ),
    "no memory of producers": (
        lambda data: alter(file(data), "DROP TABLE producer_batches"),
        "it has no table producer_batches",
    ),
    "misplaced": (
        lambda data: file(data, 1).rename(file(data)) and shutil.copy(file(data), file(data, 1)),
        "it is misplaced: it holds partition 1 of topic 'orders', not partition 0 of topic 'orders'",
    ),
    "no Takhin file": (lambda data: file(data).write_bytes(b"text" * 100), "file is not a database"),
    "cut short": (
        lambda data: file(data).write_bytes(file(data).read_bytes()[: -2 * PAGE]),
        r"is cut short: it has \d+ bytes, and its header says \d+",
    ),
    "older than the witness": (
        lambda data: alter(file(data), "UPDATE log SET commits = commits - 2"),
        "it is short: its last 2 acknowledged changes are missing",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name, data):
    """Each kind of damage is found in its own partition and in no other."""
    do, sentence = FAULTS[name]
    do(data)
    report = verify(data)
    assert re.search(sentence, "; ".join(report.partitions[0].faults)), report
    assert report.partitions[1].ok
    assert not report.ok


def test_a_lost_write_ahead_log(killed):
    """SQLite sees nothing wrong with a file whose -wal is gone; the witness knows what is missing."""
    file(killed, 1).with_name("1.db-wal").unlink()
    report = verify(killed)
    assert report.partitions[0].ok
    assert "it is short: the acknowledged offsets 0 to 599 are missing" in report.partitions[1].faults[0]


def test_files_that_do_not_fit_together(data):
    """Missing partitions, extra ones, and names that do not belong in the folder are found."""
    shutil.copy(file(data, 1), file(data, 3))
    file(data, 1).unlink()
    file(data).with_name("notes").touch()
    (data / "topics" / "a b").mkdir()
    faults = "\n".join(verify(data).faults)
    for sentence in ("1.db is missing", "3.db is one too many", "'notes' does not belong", "'a b'"):
        assert sentence in faults


def test_a_backup_and_its_manifest(data, tmp_path):
    """A file that differs from the manifest, and one that is gone, are found."""
    copy = tmp_path / "copy"
    backup(data, copy)
    alter(file(copy), "DELETE FROM records WHERE offset = 599", "UPDATE log SET end_offset = 599")
    file(copy, 1).unlink()
    report = verify(copy)
    assert "it is not the one that was copied" in " ".join(report.partitions[0].faults)
    assert f"topics/{TOPIC}/1.db is missing: backup.json says that it was copied" in report.faults


def test_the_command(data, tmp_path):
    """Exit code, lines and JSON distinguish damage from what cannot be read."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        return forked.run(command("verify", *args), capture_output=True, text=True, check=False)

    done = run(data)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"orders/0: ok, offsets 0 to 600, [0-9.]+ kB\n", done.stdout)
    alter(file(data), "DELETE FROM records WHERE offset = 77")
    alter(file(data, 1), "PRAGMA user_version = 99")
    done = run(data, "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert done.stderr == (f"takhin: {data}: 1 fault, in 1 of 2 partitions; 1 partition could not be read\n")
    first, second = document["partitions"]
    assert (document["ok"], first["ok"], len(first["faults"]), first["unreadable"]) == (False, False, 1, None)
    assert (second["faults"], "schema version 99" in second["unreadable"]) == ([], True)
    with pytest.raises(CopyError, match="is neither a data folder nor a backup"):
        verify(tmp_path)
