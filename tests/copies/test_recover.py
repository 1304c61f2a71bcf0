"""`takhin recover` makes a log startable with every credible record, and says what is lost."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from takhin.schema import VERSION

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
from storage.support import check_files, sqlite_engine
from takhin.copies.mending import checksum
from takhin.copies.recover import recover
from takhin.errors import CopyError, StartupError
from takhin.testing.contract import batch, under


def kept(rows, recovered):
    """The rows that a recovery reports as kept."""
    return [row for row in rows if recovered.start_offset <= row[0] < recovered.end_offset]


def kept_aside(recovered, suffix=""):
    return Path(recovered.aside + suffix).read_bytes()


async def test_nothing_to_do(data, killed):
    """A sound folder is not changed, except for the lock."""
    for folder in (data, killed):
        before = tree(folder)
        assert recover(folder) == []
        changed = {at for at, of in tree(folder).items() if before.get(at) != of}
        assert {at for at in changed if not at.endswith("-shm")} == {"LOCK"}


async def test_a_short_log(killed):
    """A broker refuses a short log; once recovered it has another id, and the old file is in aside/."""
    old = file(killed, 1).read_bytes()
    file(killed, 1).with_name("1.db-wal").unlink()
    with pytest.raises(StartupError, match="takhin recover --topic orders --partition 1"):
        await content(killed)
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


@pytest.mark.parametrize("at", [0, 30, 70, 104, 2_000, 16_000])
@pytest.mark.parametrize("version", range(1, VERSION))
async def test_a_flipped_bit_in_the_first_page_of_an_upgraded_file(version, at, tmp_path):
    """The first page of an upgraded file differs from a new file's, but refers to the same pages."""
    with tarfile.open(Path(__file__).parents[1] / f"fixtures/schema-{version}.tar.xz") as tar:
        tar.extractall(tmp_path / "data", filter="data")
    before = await content(tmp_path / "data")
    flip(file(tmp_path / "data"), at)
    (recovered,) = recover(tmp_path / "data")
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(tmp_path / "data") == before


@pytest.mark.parametrize("numbers", [(300,), (100, 350), (0,), (599,), (5, 20, 100, 590)], ids=str)
async def test_flipped_bits_in_records(numbers, data):
    """The longest run without a damaged page is kept; the rest is reported as lost and never served."""
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
    bounds = [-1, *numbers, 600]
    gap = max(later - sooner for sooner, later in pairwise(bounds))
    assert len(rows[1]) > gap - 2 * 17  # a page has room for 16
    assert kept_aside(recovered) == damaged
    new = await incarnations(data)
    assert (new[0], new[1] != old[1]) == (old[0], True)
    assert recover(data) == []


async def test_committed_offsets_come_along(data):
    """Committed offsets are kept, and lie within the kept records."""
    flip_value(file(data), 300)
    flip_value(file(data), 590)
    (recovered,) = recover(data)
    await content(data)  # which checks them
    assert 300 < recovered.end_offset < 600 or recovered.end_offset <= 300


async def test_what_producers_sent_comes_along(data):
    """A repeat of a kept batch is recognised; a lost one may be sent again, and is stored at the end."""
    engine = sqlite_engine(data)
    await engine.open()
    for n in range(5):
        sent = under(batch(*(value(600 + 15 * n + i) for i in range(15))), b"p", 15 * n)
        await engine.topics[TOPIC].partitions[0].append(sent)
    await engine.close()
    flip_value(file(data), 655)
    (recovered,) = recover(data)
    assert recovered.lost_besides == []
    end = recovered.end_offset
    assert 615 < end <= 655
    engine = sqlite_engine(data)
    await engine.open()
    log = engine.topics[TOPIC].partitions[0]
    told = [await log.append(under(batch(*[b""] * 15), b"p", 15 * n)) for n in range(5)]
    kept_whole = (end - 600) // 15
    assert [(each.offset, each.duplicate) for each in told] == [
        *((600 + 15 * n, True) for n in range(kept_whole)),
        *((end + 15 * n, False) for n in range(5 - kept_whole)),
    ]
    await engine.close()
    check_files(data)


async def test_a_file_that_is_cut_short_beside_its_log(data):
    """A broker refuses it; the run that file and log still have is kept, and nothing is invented."""
    before = (await content(data))[TOPIC]
    await fill(data, records=100, killed=True)
    path = file(data, 1)
    path.write_bytes(path.read_bytes()[: page_of(path, value(400))])
    with pytest.raises(StartupError, match=r"1\.db is cut short: .* is not in its write-ahead log either"):
        await content(data)
    (recovered,) = recover(data)
    rows = (await content(data))[TOPIC][1]
    assert (rows[0][0], len(rows) > 300) == (0, True)
    assert rows == before[1][: len(rows)]
    assert recovered.lost == [(len(rows), 700)]


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
        return subprocess.run(command("recover", *args), capture_output=True, text=True, check=False)

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
    with Broker(killed), pytest.raises(StartupError, match="is in use by another broker"):
        recover(killed)
