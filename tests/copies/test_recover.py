"""`takhin recover` makes a log startable with all that can be believed, and says what is lost."""

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
    """The rows of what a recovery says that it kept."""
    return [row for row in rows if recovered.start_offset <= row[0] < recovered.end_offset]


def kept_aside(recovered, suffix=""):
    return Path(recovered.aside + suffix).read_bytes()


async def test_nothing_to_do(data, killed):
    """Folders that are well are not touched, but for the lock."""
    for folder in (data, killed):
        before = tree(folder)
        assert recover(folder) == []
        changed = {at for at, of in tree(folder).items() if before.get(at) != of}
        assert {at for at in changed if not at.endswith("-shm")} == {"LOCK"}


async def test_a_short_log(killed):
    """Refused by the broker; recovered, it starts as it is, under another id, and the old file is aside."""
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
    """What comes before it is kept, what is lost is said, the damaged log is kept aside."""
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
    """It holds no records: all of them are kept, and the configs with them."""
    before = await content(data)
    flip(file(data), at)
    (recovered,) = recover(data)
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(data) == before


@pytest.mark.parametrize("at", [0, 30, 70, 104, 2_000, 16_000])
@pytest.mark.parametrize("version", range(1, VERSION))
async def test_a_flipped_bit_in_the_first_page_of_an_upgraded_file(version, at, tmp_path):
    """It is not byte for byte that of a new file, but leads to the same places."""
    with tarfile.open(Path(__file__).parents[1] / f"fixtures/schema-{version}.tar.xz") as tar:
        tar.extractall(tmp_path / "data", filter="data")
    before = await content(tmp_path / "data")
    flip(file(tmp_path / "data"), at)
    (recovered,) = recover(tmp_path / "data")
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(tmp_path / "data") == before


@pytest.mark.parametrize("numbers", [(300,), (100, 350), (0,), (599,), (5, 20, 100, 590)], ids=str)
async def test_flipped_bits_in_records(numbers, data):
    """The longest run without a damaged page is kept, all else is named as lost, and none of it served."""
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
    assert len(rows[1]) > gap - 2 * 17  # a page holds 16
    assert kept_aside(recovered) == damaged
    new = await incarnations(data)
    assert (new[0], new[1] != old[1]) == (old[0], True)
    assert recover(data) == []


async def test_committed_offsets_come_along(data):
    """They are within what was kept."""
    flip_value(file(data), 300)
    flip_value(file(data), 590)
    (recovered,) = recover(data)
    await content(data)  # which checks it
    assert 300 < recovered.end_offset < 600 or recovered.end_offset <= 300


async def test_what_producers_sent_comes_along(data):
    """A repeat of what was kept is known; what was lost may be sent again, and lands behind it."""
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
    """A broker refuses it; what the two still have of a run is kept, and nothing made up for the rest."""
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
    """The records in the rest are kept."""
    before = await content(data)
    path = file(data, 1)
    path.write_bytes(path.read_bytes()[: page_of(path, value(400))])
    (recovered,) = recover(data)
    rows = (await content(data))[TOPIC][1]
    assert rows == kept(before[TOPIC][1], recovered)
    assert len(rows) > 350


@pytest.mark.parametrize("junk", [b"", b"x" * 5 * PAGE, bytes(3 * PAGE)], ids=["empty", "junk", "zeros"])
async def test_nothing_is_left(junk, data):
    """The log goes on where it ended, so that no offset is given twice."""
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
    """After a VACUUM by a shell no page has a checksum: all of it is kept."""
    before = await content(data)
    by_another_program(file(data), "VACUUM")
    (recovered,) = recover(data)
    assert (recovered.lost, recovered.lost_besides) == ([], [])
    assert await content(data) == before


async def test_a_file_that_another_program_changed(data):
    """It cannot be told from damage: its pages are lost, unless somebody says that it is none."""
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
    """Ours of a page is the one that cksumvfs wrote."""
    content = file(data).read_bytes()
    for at in range(0, len(content), PAGE):
        page = content[at : at + PAGE]
        assert checksum(page[:-8]) == page[-8:]


def test_the_command(killed, tmp_path):
    """What it says; and it keeps away from a folder in use, or that is none."""

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
