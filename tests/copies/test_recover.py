"""`takhin recover` makes a log startable with every credible record, and says what is lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import forked
from blackbox.broker_process import Broker, command
from copies.folders import (
    PAGE,
    TOPIC,
    content,
    file,
    fill,
    flip,
    flip_value,
    incarnations,
    page_of,
    tree,
    value,
)
from storage.support import alter, check_files, run_sql, sqlite_engine
from takhin.copies.leaves import record_leaves
from takhin.copies.mending import checksum
from takhin.copies.recover import RecoverError, recover
from takhin.copies.replace import put_file
from takhin.errors import CopyError, OutOfSequenceError, PartitionUnavailableError
from takhin.model import Source
from takhin.testing.contract import batch, spec, under


def kept(rows, recovered):
    """The rows that a recovery reports as kept."""
    lost = {offset for first, end in recovered.lost for offset in range(first, end)}
    return [
        row for row in rows if recovered.start_offset <= row[0] < recovered.end_offset and row[0] not in lost
    ]


def kept_aside(recovered, suffix=""):
    return Path(recovered.aside + suffix).read_bytes()


async def test_nothing_to_do(data, killed):
    """A sound folder is not changed, except for the lock, and the number of starts in the witness."""
    for folder in (data, killed):
        before = tree(folder)
        assert recover(folder) == []
        changed = {at for at, of in tree(folder).items() if before.get(at) != of}
        assert {at for at in changed if not at.endswith("-shm")} == {"LOCK", "witness"}


async def test_a_short_log(killed):
    """A broker does not serve a short log; recovered, it has another id, and the old file is in aside/."""
    old = file(killed, 1).read_bytes()
    file(killed, 1).with_name("1.db-wal").unlink()
    with pytest.raises(PartitionUnavailableError, match="takhin recover --topic orders --partition 1"):
        await content(killed, checked=False)
    (recovered,) = recover(killed, TOPIC, 1)
    assert (recovered.partition, recovered.start_offset, recovered.end_offset) == (1, 0, 0)
    assert recovered.lost == [(0, 600)]
    assert kept_aside(recovered) == old
    assert recovered.aside.startswith(f"{killed}/aside/")
    assert [len(rows) for rows in (await content(killed))[TOPIC]] == [600, 0]
    assert recover(killed) == []
    await fill(killed, records=100)
    assert [len(rows) for rows in (await content(killed))[TOPIC]] == [700, 100]


async def test_a_write_ahead_log_with_a_flipped_bit(killed):
    """Records before the damage are kept, what is lost is reported, and the damaged log is in aside/."""
    wal = file(killed).with_name("0.db-wal")
    flip(wal, wal.stat().st_size // 2)
    damaged = wal.read_bytes()
    (recovered,) = recover(killed)
    assert recovered.partition == 0
    assert 0 < recovered.end_offset < 600
    assert recovered.lost == [(recovered.end_offset, 600)]
    assert kept_aside(recovered, "-wal") == damaged
    rows = (await content(killed))[TOPIC][0]
    assert [row[3] for row in rows] == [value(n) for n in range(recovered.end_offset)]


@pytest.mark.parametrize("at", [0, 18, 20, 30, 70, 104, 2_000, 16_000])
async def test_a_flipped_bit_in_the_first_page(at, data):
    """All records are kept, because the first page has none, and the configs with them."""
    before = await content(data)
    flip(file(data), at)
    (recovered,) = recover(data)
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(data) == before


@pytest.mark.parametrize("numbers", [(300,), (100, 350), (0,), (599,), (5, 20, 100, 590)], ids=str)
async def test_flipped_bits_in_records(numbers, data):
    """All records of whole pages are kept; the rest is reported as lost and never served."""
    before = await content(data)
    old = await incarnations(data)
    for number in numbers:
        flip_value(file(data, 1), number)
    damaged = file(data, 1).read_bytes()
    (recovered,) = recover(data)
    rows = (await content(data))[TOPIC]
    assert rows == [before[TOPIC][0], kept(before[TOPIC][1], recovered)]
    lost = {offset for first, end in recovered.lost for offset in range(first, end)}
    assert lost | {row[0] for row in rows[1]} == set(range(600))
    assert lost.issuperset(numbers)
    assert not lost & {row[0] for row in rows[1]}
    assert len(rows[1]) >= 600 - 17 * len(numbers)  # a page has room for 17
    assert kept_aside(recovered) == damaged
    new = await incarnations(data)
    assert (new[0], new[1] != old[1]) == (old[0], True)
    assert recover(data) == []


async def test_a_single_page_of_records(data):
    """Records of the only page that is left are kept, although no page leads to it any more."""
    before = (await content(data))[TOPIC][1]
    leaf = min(record_leaves(file(data, 1)), key=lambda leaf: leaf.page)
    os.truncate(file(data, 1), leaf.page * PAGE)
    (recovered,) = recover(data)
    assert (recovered.start_offset, recovered.end_offset) == (leaf.first, leaf.last + 1)
    assert (await content(data))[TOPIC][1] == before[leaf.first : leaf.last + 1]


@pytest.mark.parametrize("at", [3, 9_000, PAGE - 3])
@pytest.mark.parametrize(
    "table",
    [
        "topic",
        "topic_configs",
        "headers",
        "time_index",
        "producer_batches",
        "sources",
        "lost_offsets",
        "zero_tails",
        "time_blocks",
    ],
)
async def test_a_flipped_bit_in_a_table_without_rows(table, at, tmp_path):
    """Nothing is lost, because such a page looks like every other one of its kind."""
    engine = sqlite_engine(tmp_path / "data")
    await engine.open()
    await engine.create_topic(spec(TOPIC, 2))
    await engine.topics[TOPIC].partitions[1].append(batch(*map(value, range(50))))
    await engine.close()
    path = file(tmp_path / "data", 1)
    before = await content(tmp_path / "data")
    flip(path, (root_of(path, table) - 1) * PAGE + at)
    (recovered,) = recover(tmp_path / "data")
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(tmp_path / "data") == before


ROWS = {
    "log": [],
    "headers": ["the headers that offsets 0 to 1799 may have had"],
    "committed_offsets": ["the groups' committed offsets"],
    "producer_batches": ["what its producers have sent last"],
    "sources": ["what its records were made of"],
    "topic": [],
    "topic_configs": ["the topic's configs"],
    "time_blocks": [],
}


@pytest.mark.parametrize("table", ROWS)
async def test_a_flipped_bit_in_a_table_with_rows(table, data):
    """What is lost is said, and that is nothing that can be found elsewhere; no record is."""
    engine = sqlite_engine(data)
    await engine.open()
    for number in range(12):  # more rows of each table
        source = Source("g", "in", number, 5, f"of-{number}")
        sent = under(batch(*[b""] * 100), b"p", 100 * number, source=source)
        await engine.topics[TOPIC].partitions[0].append(sent)
    await engine.close()
    before = await content(data)
    flip(file(data), (root_of(file(data), table) - 1) * PAGE + 16_300)
    (recovered,) = recover(data)
    assert recovered.lost == []
    said = [note.partition(" or some")[0] for note in recovered.lost_besides]
    assert said == ROWS[table]
    after = await content(data)
    assert [[row[:4] for row in rows] for rows in after[TOPIC]] == [
        [row[:4] for row in rows] for rows in before[TOPIC]
    ]


def root_of(path, table):
    """The page on which a table begins."""
    return int(run_sql(path, f"SELECT rootpage FROM sqlite_schema WHERE name = '{table}'"))


async def test_committed_offsets_come_along(data):
    """Committed offsets are kept, and lie within the kept records."""
    flip_value(file(data), 300)
    flip_value(file(data), 590)
    (recovered,) = recover(data)
    await content(data)  # which checks them
    assert recovered.end_offset == 600
    assert len(recovered.lost) == 2


async def test_what_producers_sent_comes_along(data):
    """A repeat of a kept batch is recognised; what was sent before a lost one is no longer remembered."""
    engine = sqlite_engine(data)
    await engine.open()
    for n in range(5):
        sent = under(batch(*(value(600 + 15 * n + i) for i in range(15))), b"p", 15 * n)
        await engine.topics[TOPIC].partitions[0].append(sent)
    await engine.close()
    flip_value(file(data), 655)
    (recovered,) = recover(data)
    assert recovered.lost_besides == []
    ((first, beyond),) = recovered.lost
    assert 615 < first <= 655 < beyond <= 660
    engine = sqlite_engine(data)
    await engine.open()
    log = engine.topics[TOPIC].partitions[0]
    assert log.end_offset == 675
    for n, offset in ((4, 660), (5, 675)):
        told = await log.append(under(batch(*[b""] * 15), b"p", 15 * n))
        assert (told.offset, told.duplicate) == (offset, n == 4)
    with pytest.raises(OutOfSequenceError):
        await log.append(under(batch(*[b""] * 15), b"p", 15 * 3))
    await engine.close()
    check_files(data)


async def test_a_file_that_is_cut_short_beside_its_log(data):
    """A broker refuses it; what file and log still have is kept, and nothing is invented."""
    before = (await content(data))[TOPIC]
    await fill(data, records=100, killed=True)
    path = file(data, 1)
    path.write_bytes(path.read_bytes()[: page_of(path, value(400))])
    cut_short = r"1\.db is cut short: .* is not in its write-ahead log either"
    with pytest.raises(PartitionUnavailableError, match=cut_short):
        await content(data, checked=False)
    (recovered,) = recover(data)
    rows = (await content(data))[TOPIC][1]
    assert (rows[0][0], len(rows) > 300) == (0, True)
    assert [row for row in rows if row[0] < 600] == kept(before[1], recovered)
    assert len(rows) == 700 - sum(end - first for first, end in recovered.lost)


async def test_a_file_that_is_cut_short(data):
    """The records in the rest of the file are kept."""
    before = await content(data)
    path = file(data, 1)
    path.write_bytes(path.read_bytes()[: page_of(path, value(400))])
    (recovered,) = recover(data)
    rows = (await content(data))[TOPIC][1]
    assert rows == kept(before[TOPIC][1], recovered)
    assert len(rows) > 350


@pytest.mark.parametrize("junk", [b"", b"x" * 5 * PAGE, bytes(3 * PAGE)], ids=["empty", "junk", "zeros"])
async def test_nothing_is_left(junk, data):
    """The log continues at its old end, so that no offset is used twice."""
    file(data).write_bytes(junk)
    (recovered,) = recover(data)
    assert (recovered.start_offset, recovered.end_offset, recovered.lost) == (600, 600, [(0, 600)])
    assert any("configs" in besides for besides in recovered.lost_besides)
    assert [len(rows) for rows in (await content(data))[TOPIC]] == [0, 600]


@pytest.mark.parametrize("partition", [0, 1])
async def test_a_missing_file(partition, data):
    """Chosen by its number, it becomes an empty one, so that the others of its topic are served again."""
    file(data, partition).unlink()
    assert recover(data) == []
    (recovered,) = recover(data, TOPIC, partition)
    assert (recovered.aside, recovered.lost, recovered.end_offset) == ("", [(0, 600)], 600)
    assert [len(rows) for rows in (await content(data))[TOPIC]] == [600 * partition, 600 - 600 * partition]


async def test_the_others_are_recovered_beside_one_that_cannot_be(data):
    """A file that is another's is left as it is and named, and keeps no other one from being mended."""
    flip_value(file(data), 300)
    file(data, 1).write_bytes(file(data).read_bytes())
    flip_value(file(data), 20)
    other = file(data, 1).read_bytes()
    with pytest.raises(RecoverError, match="is misplaced and is left as it is") as caught:
        recover(data)
    assert [of.partition for of in caught.value.recovered] == [0]
    assert file(data, 1).read_bytes() == other


BY_ANOTHER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    db.execute(statement)
db.close()
"""


def by_another_program(path, *statements):
    subprocess.run([sys.executable, "-I", "-S", "-c", BY_ANOTHER, path, *statements], check=True)


async def test_a_file_that_another_program_wrote_anew(data):
    """After a VACUUM by a shell no page has a checksum, and everything is kept."""
    before = await content(data)
    by_another_program(file(data), "VACUUM")
    (recovered,) = recover(data)
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(data) == before


async def test_a_file_that_another_program_changed(data):
    """The changed pages count as damaged and are lost, unless the caller says that they were changed."""
    by_another_program(file(data), "UPDATE records SET value = x'00' WHERE offset = 300")
    by_another_program(file(data, 1), "UPDATE records SET value = x'00' WHERE offset = 300")
    (first,) = recover(data, TOPIC, 0)
    (second,) = recover(data, TOPIC, 1, changed=True)
    assert first.lost
    assert second.lost == []
    rows = (await content(data))[TOPIC]
    assert b"\0" not in [row[3] for row in rows[0]]
    assert rows[1][300][3] == b"\0"
    assert len(rows[1]) == 600


def test_checksums_are_sqlite_s(data):
    """Our checksum of a page is the one that cksumvfs wrote."""
    content = file(data).read_bytes()
    for at in range(0, len(content), PAGE):
        page = content[at : at + PAGE]
        assert checksum(page[:-8]) == page[-8:]


def test_the_command(killed, tmp_path):
    """The command reports what it did, and refuses a folder in use and one that is no data folder."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        return forked.run(command("recover", *args), capture_output=True, text=True, check=False)

    for partition in (0, 1):
        file(killed, partition).with_name(f"{partition}.db-wal").unlink()
    done = run("--data-dir", killed, "--topic", TOPIC)
    assert (done.returncode, done.stderr) == (0, "")
    line = (
        r"orders/1: lost offsets 0 to 599; it has 0 to 0; the old file is (\S+)/aside/\S+/orders/1.db \(it .*"
    )
    assert re.fullmatch(line, done.stdout.splitlines()[1])
    with pytest.raises(CopyError, match="there is no topic 'nosuch'"):
        recover(killed, "nosuch")
    with pytest.raises(CopyError, match=r"7.db is missing: put a copy of it back with takhin restore"):
        recover(killed, TOPIC, 7)
    with pytest.raises(CopyError, match="is neither a data folder"):
        recover(tmp_path / "nosuch")
    with Broker(killed):
        assert recover(killed) == []


def test_a_new_file_that_is_gone(killed):
    """What is in place keeps its write-ahead log if the file that was to replace it has been removed."""
    before = tree(killed)
    with pytest.raises(FileNotFoundError):
        put_file(killed / "tmp/new.db", file(killed))
    assert tree(killed) == before


async def test_a_row_that_no_broker_has_written(data):
    """A log without a possible topic id gets its neighbours', and keeps its records; so do they."""
    before = await content(data)
    alter(file(data), "UPDATE log SET topic_id = 'none'")
    (recovered,) = recover(data)
    assert "topic id 'none'" in recovered.faults[0]
    assert recovered.lost == []
    assert await content(data) == before
