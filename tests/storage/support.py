"""What the storage tests share: batches, records in a form that compares, and a store that reopens."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from takhin.model import Batch, Condition, Header, Records, TopicConfig, TopicSpec
from takhin.settings import StorageSettings
from takhin.sizes import size_bytes
from takhin.storage.engine import EndMoved, PartitionLog
from takhin.storage.schema import build
from takhin.storage.sqlite_engine import SqliteEngine

NOW = 1_700_000_000_000
ALL = {"max_bytes": 1 << 30, "max_records": 1 << 30}
"""Read limits that bound nothing."""

Stored = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
"""A record whole: offset, timestamp, key, value, headers."""


def clock() -> int:
    return NOW


def batch(
    *values: bytes | None,
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[int] | None = None,
    headers: Mapping[int, Sequence[Header]] | None = None,
) -> Batch:
    """A batch of these values; without keys and headers, and of now, where nothing else is said."""
    keys = keys or [None] * len(values)
    headers = headers or {}
    size = size_bytes(keys, values, headers.values())
    return Batch(keys, values, timestamps or [NOW] * len(values), headers, size)


def numbered(count: int, first: int = 0) -> Batch:
    """A batch of `count` records whose values are the numbers from `first`."""
    return batch(*(b"%d" % n for n in range(first, first + count)))


def timed(*timestamps: int) -> Batch:
    """A batch of records with these timestamps."""
    return batch(*[b""] * len(timestamps), timestamps=timestamps)


def under(
    sent: Batch, producer_id: bytes = b"", sequence: int = 0, *, expected_offset: int | None = None
) -> Batch:
    """The batch under a condition. A short producer_id is filled up."""
    return replace(
        sent, condition=Condition(producer_id and producer_id.ljust(16), sequence, expected_offset)
    )


def spec(name: str, num_partitions: int = 1, config: TopicConfig | None = None) -> TopicSpec:
    return TopicSpec(name, num_partitions, config or TopicConfig(1 << 20))


def as_stored(records: Records) -> list[Stored]:
    """What a read returned, headers beside their records; headers of no returned record are a fault."""
    assert set(records.headers) <= {row[0] for row in records.rows}
    return [(*row, tuple(map(tuple, records.headers.get(row[0], ())))) for row in records.rows]


def as_expected(appended: Batch, first: int) -> list[Stored]:
    """What a read should return for a batch that landed at offset `first`."""
    headers = [tuple(map(tuple, appended.headers.get(i, ()))) for i in range(len(appended))]
    offsets = range(first, first + len(appended))
    return list(zip(offsets, appended.timestamps, appended.keys, appended.values, headers, strict=True))


async def read_all(log: PartitionLog, **limits: int) -> list[Stored]:
    """The whole log, read page by page; a page without a record before the end is a fault."""
    found: list[Stored] = []
    offset = log.start_offset
    while offset < log.end_offset:
        page = as_stored(await log.read(offset, **(ALL | limits)))
        assert page
        found += page
        offset = page[-1][0] + 1
    return found


def check_files(data_dir: Path) -> None:
    """The consistency check over the files of a closed engine, in a child process (see check_files.py)."""
    script = Path(__file__).with_name("check_files.py")
    child = subprocess.run(
        [sys.executable, "-I", "-S", script, data_dir], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stdout + child.stderr


RUN_SQL = """
import contextlib, sqlite3, sys
uri, statement = sys.argv[1:]
with contextlib.closing(sqlite3.connect(uri, uri=True)) as db, db:
    for row in db.execute(statement):
        print(*row, sep="|")
"""


def run_sql(path: Path, statement: str) -> str:
    """What one statement prints in a child process with another SQLite, as in a shell: read-only."""
    child = [sys.executable, "-I", "-S", "-c", RUN_SQL, f"{path.as_uri()}?mode=ro", statement]
    return subprocess.run(child, capture_output=True, text=True, check=True).stdout.strip()


ALTER = """
import sys, apsw
from takhin.schema import checksums
checksums.load()
db = apsw.Connection(sys.argv[1])
for statement in sys.argv[2:]:
    db.execute(statement)
"""


def alter(path: Path, *statements: str) -> None:
    """Change a closed file in a child process, with checksums, so that only its content is wrong."""
    subprocess.run([sys.executable, "-c", ALTER, path, *statements], check=True)


def sqlite_engine(data_dir: Path, end_moved: EndMoved, **settings: int) -> SqliteEngine:
    return SqliteEngine(data_dir, StorageSettings(**settings), clock=clock, end_moved=end_moved)


@cache
def template() -> bytes:
    """An empty partition file, as the broker's own child process builds it: once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "template.db")
        build(path)
        return path.read_bytes()


def lend_template(data_dir: Path) -> None:
    """Put an open engine where it is after its first topic: with a template, which takes 0.2 s to build."""
    (data_dir / "tmp" / "template.db").write_bytes(template())


class Store:
    """A SQLite engine that can be closed and opened again; its files are checked at every close.

    settings: fields of StorageSettings that are not at their defaults.
    """

    def __init__(self, data_dir: Path, **settings: int) -> None:
        self.data_dir = data_dir
        self.moved: list[PartitionLog] = []
        self._settings = settings

    async def open(self) -> None:
        self.engine = sqlite_engine(self.data_dir, self.moved.append, **self._settings)
        await self.engine.open()
        lend_template(self.data_dir)

    async def close(self) -> None:
        await self.engine.close()
        check_files(self.data_dir)

    async def reopen(self) -> None:
        await self.close()
        await self.open()

    async def crash(self) -> None:
        """Go on with what is on disk now, write-ahead logs included, as after SIGKILL at a quiet moment.

        A child process copies the files (opening them in this one would drop SQLite's locks). It waits for
        checkpoints that are under way, because a copy, unlike a kill, takes time.
        """
        for topic in self.engine.topics.values():
            for log in topic.partitions:
                await log._writer.drain()
        crashed, self.data_dir = self.data_dir, self.data_dir.with_name(f"{self.data_dir.name}-")
        copier = await asyncio.create_subprocess_exec("cp", "-r", crashed, self.data_dir)
        assert await copier.wait() == 0
        await self.engine.close()
        check_files(crashed)
        await self.open()

    def log(self, topic: str, partition: int = 0) -> PartitionLog:
        return self.engine.topics[topic].partitions[partition]
