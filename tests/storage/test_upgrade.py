"""Files of every earlier schema version open, read the same, take records, and are current afterwards."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from takhin.schema import APPLICATION_ID, VERSION
from takhin.schema.checksums import SINCE_VERSION

from storage.fixture import COMMITTED, TIMES, TOPIC, TRIMMED, kept
from storage.support import Store, run_sql
from takhin.disk.header import file_header
from takhin.disk.versions import TAILS_SINCE
from takhin.errors import StartupError
from takhin.testing.contract import name_of, numbered, read_all, source_of, spec, under

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("schema-*.tar.xz"))

CHECKSUM_BYTES = 8
"""The bytes reserved at the end of each page (sqlite.org/cksumvfs.html)."""


def unpacked(archive, folder):
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(params=FIXTURES, ids=[path.name.partition(".")[0] for path in FIXTURES])
def old(request, tmp_path):
    """A data folder as a killed broker of an earlier version left it."""
    return unpacked(request.param, tmp_path / "data")


def test_there_is_a_fixture_of_every_earlier_version():
    """tests/fixtures has every earlier version; storage/fixture.py says how one is made."""
    versions = [int(path.name.removeprefix("schema-").partition(".")[0]) for path in FIXTURES]
    assert set(range(1, VERSION)) <= set(versions)


def test_the_fixture_is_of_its_version(old, request):
    """Each fixture was written by its version, which was killed: a WAL holds the last records."""
    version = int(request.node.callspec.id.removeprefix("schema-"))
    for partition in kept():
        header = file_header(old / "topics" / TOPIC / f"{partition}.db")
        assert (header.application_id, header.user_version) == (APPLICATION_ID, version)
    assert (old / "topics" / TOPIC / "0.db-wal").stat().st_size > 0


async def test_everything_is_there(old):
    """Records, headers, the trimmed start, committed offsets and the search by time are unchanged."""
    store = Store(old)
    await store.open()
    for partition, rows in kept().items():
        log = store.log(TOPIC, partition)
        assert await read_all(log) == rows
        assert log.end_offset == (rows[-1][0] + 1 if rows else 0)
        assert log.start_offset == (TRIMMED if partition == 0 else 0)
    log = store.log(TOPIC)
    assert list(store.engine.offsets.groups()) == sorted(COMMITTED)
    for group_id, committed in COMMITTED.items():
        assert store.engine.offsets.of(group_id) == {name_of(log): committed}
    for offset in (TRIMMED, TRIMMED + 1, 1_234, 2_999):
        assert (await log.offset_for_time(TIMES[offset])).offset == offset
    assert (await log.offset_for_time(TIMES[0])).offset == TRIMMED
    assert (await log.offset_for_time(TIMES[-1] + 1)).offset == log.end_offset
    assert len({store.log(TOPIC, n).incarnation_id for n in kept()}) == len(kept())
    await store.close()


async def test_it_goes_on(old):
    """Appends, commits and trims continue the old log, across a restart and a crash."""
    store = Store(old)
    await store.open()
    expected = {partition: [row[3] for row in rows] for partition, rows in kept().items()}
    for again in (store.reopen, store.crash, store.reopen):
        for partition, values in expected.items():
            appended = await store.log(TOPIC, partition).append(numbered(5))
            assert appended.offset == len(values) + (TRIMMED if partition == 0 else 0)
            values += [b"%d" % n for n in range(5)]
        await again()
        for partition, values in expected.items():
            assert [row[3] for row in await read_all(store.log(TOPIC, partition))] == values
    await store.close()


async def test_the_files_are_of_today(old, tmp_path, request):
    """After the first start every file has the version, the checksums and the tables of a new one."""
    version = int(request.node.callspec.id.removeprefix("schema-"))
    store = Store(old)
    await store.open()
    await store.close()
    new = Store(tmp_path / "new")
    await new.open()
    await new.engine.create_topic(spec(TOPIC))
    await new.close()
    model = new.data_dir / "topics" / TOPIC / "0.db"
    for partition in kept():
        path = store.data_dir / "topics" / TOPIC / f"{partition}.db"
        header = file_header(path)
        assert header.application_id == APPLICATION_ID
        assert header.user_version == VERSION
        assert header.reserved_bytes == CHECKSUM_BYTES
        assert pages_that_fail(path) == "0"
        assert tables(path) == tables(model)
        end = kept()[partition][-1][0] + 1 if kept()[partition] and version < TAILS_SINCE else 0
        unknown_below = run_sql(path, "SELECT length FROM zero_tails WHERE offset = -1")
        assert unknown_below == (str(end) if end and version < TAILS_SINCE else "")


FAILING_PAGES = """
import sys, apsw
from takhin.schema import checksums
checksums.load()
check = apsw.Connection(":memory:").execute
content = open(sys.argv[1], "rb").read()
size = int.from_bytes(content[16:18], "big")
pages = [content[at : at + size] for at in range(0, len(content), size)]
assert len(pages) > 5
print(sum(check("SELECT verify_checksum(?)", (page,)).get != 1 for page in pages))
"""


def pages_that_fail(path):
    """The number of pages of a closed file whose checksum does not match."""
    child = [sys.executable, "-c", FAILING_PAGES, path]
    return subprocess.run(child, capture_output=True, text=True, check=True).stdout.strip()


def tables(path):
    """Names and columns of all tables and views."""
    columns = (
        "SELECT m.type, m.name, c.name, c.type, c.pk FROM sqlite_schema AS m, pragma_table_info(m.name) AS c "
        "WHERE m.name NOT LIKE 'sqlite%' ORDER BY m.name, c.cid"
    )
    return run_sql(path, columns)


async def test_an_upgrade_under_way_is_taken_up_again(old):
    """When a start is killed after it has upgraded some files, the next one upgrades the rest."""
    store = Store(old)
    whole = {path: path.read_bytes() for path in (old / "topics" / TOPIC).iterdir()}
    await store.open()
    await store.close()
    for path, content in whole.items():  # partition 0 stays upgraded, the others are old again
        if not path.name.startswith("0."):
            path.write_bytes(content)
    (old / "witness").unlink(missing_ok=True)
    store = Store(old)
    await store.open()
    for partition, rows in kept().items():
        assert await read_all(store.log(TOPIC, partition)) == rows
    await store.close()


async def test_producers_are_remembered_from_now_on(old):
    """A batch sent after the upgrade is recognised when it is repeated, even after a crash."""
    store = Store(old)
    await store.open()
    for partition in kept():
        log = store.log(TOPIC, partition)
        landed = await log.append(under(numbered(5), b"p"))
        await store.crash()
        log = store.log(TOPIC, partition)
        assert await log.append(under(numbered(5), b"p")) == landed._replace(duplicate=True)
        assert log.end_offset == landed.offset + 5
    await store.close()


async def test_sources_are_remembered_from_now_on(old):
    """What is taken of a source after the upgrade is known, even after a crash."""
    store = Store(old)
    await store.open()
    for partition in kept():
        sent = under(numbered(1), source=source_of(store.log(TOPIC, partition), 5))
        assert not (await store.log(TOPIC, partition).append(sent)).duplicate
        await store.crash()
        assert (await store.log(TOPIC, partition).append(sent)).duplicate
    await store.close()


@pytest.mark.parametrize("version", range(SINCE_VERSION, VERSION))
async def test_a_short_log_is_not_upgraded(version, tmp_path):
    """Files with less than the witness has noted are refused and left unchanged."""
    old = unpacked(FIXTURES[version - 1], tmp_path / "data")
    folder = old / "topics" / TOPIC
    before = {path: path.read_bytes() for path in folder.iterdir()}
    store = Store(old)
    await store.open()
    for partition in kept():
        await store.log(TOPIC, partition).append(numbered(1))
    await store.close()
    for path, content in before.items():
        path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StartupError, match="acknowledged offsets 3004 to 3004 are missing"):
            await Store(old, strict=True).open()
        left = {path: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}
        assert left == before
