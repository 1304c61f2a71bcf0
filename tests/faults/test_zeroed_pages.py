"""A page of zeros in the place of any page is refused by everyone who reads; values of zeros are served."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from copies.folders import in_child
from faults.pages import Page, pages_of, zero
from storage.support import alter, check_files, run_sql, sqlite_engine
from takhin.copies.backup import backup
from takhin.copies.recover import recover
from takhin.copies.restore import restore
from takhin.copies.verify import verify
from takhin.disk import overflow
from takhin.errors import CopyError, PartitionUnavailableError, QueryError
from takhin.model import CommittedOffset, Header
from takhin.query.query import run
from takhin.query.topic import TopicFiles
from takhin.storage.sqlite import reader
from takhin.testing.contract import NOW, batch, name_of, read_all, spec, under

TOPIC = "t"
SMALL, GROUPS = 600, 400
ZEROS = [bytes(60_000), b"x" + bytes(60_000), bytes(overflow.RECORD_LAST_BYTES_MIN), bytes(16_372 * 3)]
LONG_METADATA = "m" * 4_096
FROM_OUTSIDE = {"records", "headers", "committed_offsets"}
"""The tables with what callers have sent."""


def filled(length: int, number: int) -> bytes:
    """Bytes without a zero that differ from place to place and from record to record."""
    return (b"<%d>" % number * length)[:length]


def path_of(data: Path) -> Path:
    return data / "topics" / TOPIC / "0.db"


async def fill(data: Path) -> None:
    engine = sqlite_engine(data)
    await engine.open()
    log = (await engine.create_topic(spec(TOPIC))).partitions[0]
    for first in range(0, SMALL, 50):
        headers = {n: [Header("h", filled(900, first + n))] for n in range(50)}
        values = [filled(600, first + n) for n in range(50)]
        of_producer = b"p%d" % (first // 50 % 3), first // 150 * 50
        await log.append(under(batch(*values, headers=headers), *of_producer))
    for number in range(4):
        await log.append(batch(filled(60_000 + number, number), keys=[filled(20, number)]))
        await log.append(batch(b"", keys=[filled(50_000 + number, number)]))
        await log.append(batch(b"v", headers={0: [Header("h", filled(40_000 + number, number))]}))
        await log.append(batch(b"v", headers={0: [Header("k" * (5_000 + number), b"")]}))
    await log.append(batch(*ZEROS))
    await log.append(batch(*[None] * len(ZEROS), keys=ZEROS))
    await log.append(batch(b"", headers={0: [Header("z", zeros) for zeros in (bytes(2_055), *ZEROS)]}))
    for number in range(GROUPS):
        committed = CommittedOffset(number, "m" * 60, NOW)
        await engine.offsets.commit(f"group-{number}", {name_of(log): committed})
    for number in range(2):
        committed = CommittedOffset(number, LONG_METADATA, NOW)
        await engine.offsets.commit(f"long-{number}", {name_of(log): committed})
    await engine.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zeroed") / "data"
    assert in_child(lambda: asyncio.run(fill(folder))) == 0
    check_files(folder)
    return folder


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


async def served(data: Path):
    """All records, and what groups have committed. Raises PartitionUnavailableError."""
    engine = sqlite_engine(data)
    await engine.open()
    try:
        (log,) = engine.topics[TOPIC].partitions
        log.check_available()
        rows = await read_all(log)
        return rows, {group: engine.offsets.of(group)[name_of(log)] for group in engine.offsets.groups()}
    finally:
        await engine.close()


def queried(data: Path, *tables: str) -> list:
    """All rows of these tables, as `takhin sql` reads them. Raises QueryError."""
    topic = TopicFiles(data, TOPIC)
    return [list(run(topic, f"SELECT * FROM {table}").rows) for table in tables]


def chosen(path: Path, first: int) -> dict[str, Page]:
    """The last page of each kind of each table, and so many of the first ones."""
    kinds: dict[tuple[str, str], list[Page]] = {}
    content = path.read_bytes()
    for page in pages_of(path):
        if any(content[(page.number - 1) * 16_384 : page.number * 16_384]):
            kinds.setdefault((page.table, page.kind), []).append(page)
    return {
        f"{table}-{kind}-{page.number}": page
        for (table, kind), pages in kinds.items()
        for page in (*pages[:first], pages[-1])
    }


def test_there_is_every_kind_of_page(whole):
    """The folder has leaf, interior, middle and last overflow pages wherever there can be any."""
    found = {(page.table, page.kind) for page in pages_of(path_of(whole))}
    every = {"leaf", "internal", "middle", "last"}
    assert {(table, kind) for table in ("records", "headers") for kind in every} <= found
    assert {("committed_offsets", kind) for kind in every - {"middle"}} <= found
    assert {table for table, kind in found if kind in ("middle", "last")} == FROM_OUTSIDE


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.soak)])
async def test_every_kind_of_page(whole, tmp_path, first):
    """The broker, verify, backup, restore and sql refuse a page of zeros; recover keeps the rest."""
    before = await served(Path(shutil.copytree(whole, tmp_path / "before")))
    backup(whole, tmp_path / "copy")
    for name, page in chosen(path_of(whole), first).items():
        data = Path(shutil.copytree(whole, tmp_path / name))
        zero(path_of(data), page.number)
        assert not verify(data).ok, name
        with pytest.raises(CopyError, match=r"0\.db"):
            backup(data, tmp_path / f"backup {name}")
        damaged = Path(shutil.copytree(tmp_path / "copy", tmp_path / f"damaged {name}"))
        zero(path_of(damaged), page.number)
        with pytest.raises(CopyError):
            restore(damaged, tmp_path / f"restored {name}")
        if page.table in FROM_OUTSIDE:
            with pytest.raises(QueryError, match=r"0\.db"):
                queried(data, page.table)
            with pytest.raises(PartitionUnavailableError):
                await served(Path(shutil.copytree(data, tmp_path / f"served {name}")))
        else:
            with suppress(PartitionUnavailableError):
                assert await served(Path(shutil.copytree(data, tmp_path / f"served {name}"))) == before
        await check_recovered(data, before, page, name)


@pytest.mark.parametrize("which", ["pointer map", "free list", "free"])
async def test_pages_of_no_table(which, data, tmp_path):
    """A lost page of SQLite's own lists is found, and recover mends it; a free one is no damage."""
    path = path_of(data)
    gone = ("DELETE FROM records WHERE offset < 300", "DELETE FROM headers WHERE offset < 300")
    alter(path, *gone, "UPDATE log SET start_offset = 300", "DELETE FROM time_blocks")
    before = (await served(Path(shutil.copytree(data, tmp_path / "before"))))[0]
    trunk = int.from_bytes(path.read_bytes()[32:36], "big")
    in_use = {page.number for page in pages_of(path)}
    free = next(number for number in range(3, trunk + 99) if number not in in_use | {trunk})
    zero(path, {"pointer map": 2, "free list": trunk, "free": free}[which])
    if which != "free":
        assert not verify(data).ok
        with pytest.raises(CopyError):
            backup(data, tmp_path / "backup")
        assert [(one.lost, one.lost_besides) for one in recover(data)] == [([], [])]
    assert verify(data).ok
    backup(data, tmp_path / "copy")
    assert (await served(data))[0] == before
    engine = sqlite_engine(data)
    await engine.open()
    await engine.topics[TOPIC].partitions[0].append(batch(*[filled(60_000, 1)] * 60))
    await engine.close()
    check_files(data)


async def check_recovered(data, before, page: Page, name: str) -> None:
    """recover keeps what is not on the page, reports what it has lost, and leaves a sound folder."""
    (told,) = recover(data)
    rows, committed = await served(data)
    check_files(data)
    assert verify(data).ok, name
    lost = {offset for run in told.lost for offset in range(*run)}
    wanted = {row[0]: row for row in before[0]}
    headers_lost = any("headers" in note for note in told.lost_besides)
    for row in rows:
        assert row == wanted[row[0]] or (headers_lost and row[:4] == wanted[row[0]][:4]), name
    assert {row[0] for row in rows} | lost >= wanted.keys(), name
    assert len(lost) < 60, name
    within = range(told.start_offset, told.end_offset + 1)
    for group, found in committed.items():
        moved = max(within[0], min(within[-1], before[1][group].offset))
        assert found == before[1][group]._replace(offset=moved), name
    said = any("committed" in note for note in told.lost_besides)
    assert said or committed.keys() == before[1].keys(), name


async def test_a_record_that_lost_its_end_is_named(data):
    """The error of a read names the record, and the records before it can be read."""
    found = [page for page in pages_of(path_of(data)) if (page.table, page.kind) == ("records", "last")]
    zero(path_of(data), found[0].number)
    engine = sqlite_engine(data)
    await engine.open()
    (log,) = engine.topics[TOPIC].partitions
    with pytest.raises(PartitionUnavailableError, match=f"record {SMALL} has lost its last page"):
        await log.read(SMALL, max_bytes=1, max_records=1)
    assert (await log.read(SMALL - 1, max_bytes=1, max_records=1)).rows[0][3] == filled(600, SMALL - 1)
    await engine.close()
    report = verify(data)
    assert any(f"record {SMALL} has lost" in fault for fault in report.partitions[0].faults)


@pytest.mark.parametrize("where", ["key = 'x'", "value LIKE '%x%'", "key GLOB 'x*'", "value = 'x'"])
async def test_a_condition_does_not_hide_it(where, data):
    """A query whose condition would leave a damaged record out is refused, too."""
    for page in pages_of(path_of(data)):
        if (page.table, page.kind) == ("records", "last"):
            zero(path_of(data), page.number)
    with pytest.raises(QueryError, match="has lost its last page"):
        list(run(TopicFiles(data, TOPIC), f"SELECT offset FROM records WHERE {where}").rows)


def test_headers_in_a_query_of_records(data):
    """The JSON of headers is refused if one of them has lost its end; other columns are not."""
    for page in pages_of(path_of(data)):
        if (page.table, page.kind) == ("headers", "last"):
            zero(path_of(data), page.number)
    assert len(list(run(TopicFiles(data, TOPIC), "SELECT value FROM records").rows)) > SMALL
    with pytest.raises(QueryError, match=r"header 0 of record \d+ has lost its last page"):
        list(run(TopicFiles(data, TOPIC), "SELECT headers FROM records").rows)


async def test_values_of_zeros_survive_a_recovery(data):
    """recover takes values of zeros over if the file says that they are such, and says it again."""
    before = await served(data)
    found = next(page for page in pages_of(path_of(data)) if (page.table, page.kind) == ("records", "leaf"))
    zero(path_of(data), found.number)
    recover(data)
    rows, _ = await served(data)
    assert [row[3] for row in rows if row[3] and not row[3].strip(b"\0")] == [
        row[3] for row in before[0] if row[3] and not row[3].strip(b"\0")
    ]
    check_files(data)
    assert recover(data) == []


async def test_what_is_older_than_the_table_is_served(data):
    """After an upgrade, nothing is known of the records before it; those after it are recognised."""
    before = await served(data)
    later = ("zero_tails", "time_blocks", "compactions", "compaction_history", "sources")
    alter(path_of(data), *(f"DROP TABLE {table}" for table in later), "PRAGMA user_version = 4")
    assert verify(data).ok
    assert queried(data, "records")[0]
    engine = sqlite_engine(data)
    await engine.open()
    (log,) = engine.topics[TOPIC].partitions
    assert await read_all(log) == before[0]
    end = log.end_offset
    await log.append(batch(bytes(60_000), filled(60_000, 7)))
    await log.trim(SMALL)
    await engine.close()
    assert run_sql(path_of(data), "SELECT * FROM zero_tails") == f"-1|0|{end}\n{end}|-1|0"
    assert verify(data).ok
    for page in pages_of(path_of(data)):
        if (page.table, page.kind) == ("records", "last"):
            zero(path_of(data), page.number)
    (faults,) = (found.faults for found in verify(data).partitions)
    assert faults == [f"record {end + 1} has lost its last page: zeros are in its place"]
    (told,) = recover(data)
    assert any(first <= end + 1 < beyond for first, beyond in told.lost)
    check_files(data)


async def test_a_trim_forgets_zeros(data):
    """The rows of records that were trimmed away go with them."""
    engine = sqlite_engine(data)
    await engine.open()
    (log,) = engine.topics[TOPIC].partitions
    await log.trim(log.end_offset - 1)
    last = log.start_offset
    await engine.close()
    check_files(data)
    assert set(run_sql(path_of(data), "SELECT offset FROM zero_tails").split()) == {str(last)}


@pytest.mark.control
async def test_without_the_table_it_is_silent(data, monkeypatch):
    """Control: without the check a reader takes the zeros for data."""
    unchecked: Callable[..., None] = lambda *_: None  # noqa: E731  it stands for a function
    monkeypatch.setattr(reader, "check_record", unchecked)
    before, _ = await served(data)
    for page in pages_of(path_of(data)):
        if (page.table, page.kind) == ("records", "last"):
            zero(path_of(data), page.number)
    rows, _ = await served(data)
    assert [row[0] for row in rows] == [row[0] for row in before]
    assert rows != before
