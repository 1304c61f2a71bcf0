"""Helpers of the SQLite engine's tests: engines, queries on their files, and a store that reopens."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

import children
import forked
from lending import lend_template
from storage import checker
from takhin.copies.backup import backup
from takhin.copies.restore import restore
from takhin.errors import StartupError
from takhin.settings import StorageSettings
from takhin.storage.contract import PartitionLog
from takhin.storage.sqlite.engine import SqliteEngine
from takhin.storage.sqlite.open_files import OpenFiles
from takhin.testing.contract import NOW, clock

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where folders are made for tests that write a great deal which need not last."""


def check_files(data_dir: Path) -> None:
    """Run the consistency check over a closed engine's files, in a child process (see check_files.py)."""
    found = checker.faults_of(data_dir)
    assert not found, "\n".join(found)


RUN_SQL = """
import contextlib, os, sqlite3, sys
uri, statement = sys.argv[1:]
with contextlib.closing(sqlite3.connect(uri, uri=True)) as db, db:
    for row in db.execute(statement):
        print(*row, sep="|")
sys.stdout.flush()
os._exit(0)
"""


def run_sql(path: Path, statement: str) -> str:
    """What a statement prints in a child process with another SQLite, as in a read-only shell."""
    child = [sys.executable, "-c", RUN_SQL, f"{path.as_uri()}?mode=ro", statement]
    return forked.run(child, capture_output=True, text=True, check=True).stdout.strip()


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
    forked.run([sys.executable, "-c", ALTER, path, *statements], check=True)


def sqlite_engine(data_dir: Path, **settings: int) -> SqliteEngine:
    """An engine that is not open yet. settings: fields of StorageSettings that are not at their defaults."""
    return SqliteEngine(data_dir, StorageSettings(**settings), clock=clock)


async def refused(data_dir: Path, match: str, **settings: int) -> None:
    """Check that a broker serves the folder without a partition, and says why; with `strict` not at all."""
    engine = sqlite_engine(data_dir, **settings)
    await engine.open()
    troubles = list(engine.troubles)
    await engine.close()
    assert [trouble for trouble in troubles if re.search(match, trouble)], troubles
    with pytest.raises(StartupError, match=match):
        await sqlite_engine(data_dir, **settings | {"strict": True}).open()


async def freeze(engine: SqliteEngine) -> OpenFiles:
    """Stop all checkpoints from now on, until `held` of the returned object is False again."""
    files = engine._parts.shared.files
    files.held = True
    for topic in engine.topics.values():
        for log in topic.partitions:
            await log.life.rested()
    return files


class Store:
    """A SQLite engine that can be closed and opened again; its files are checked at every close.

    settings: fields of StorageSettings that are not at their defaults.
    """

    def __init__(self, data_dir: Path, **settings: int) -> None:
        self.data_dir = data_dir
        self._settings = settings

    async def open(self) -> None:
        self.engine = sqlite_engine(self.data_dir, **self._settings)
        await self.engine.open()
        lend_template(self.data_dir)

    async def close(self) -> None:
        await self.engine.close()
        check_files(self.data_dir)

    async def reopen(self) -> None:
        await self.close()
        await self.open()

    async def crash(self) -> None:
        """Continue with what is on disk now, write-ahead logs included, as after SIGKILL at a quiet moment.

        A child process copies the files (opening them in this one would drop SQLite's locks). It waits for
        checkpoints that are under way, because a copy, unlike a kill, takes time.
        """
        files = await freeze(self.engine)
        crashed, self.data_dir = self.data_dir, self.data_dir.with_name(f"{self.data_dir.name}-")
        await children.run("cp", "-r", crashed, self.data_dir)
        files.held = False
        await self.engine.close()
        check_files(crashed)
        await self.open()

    async def copy(self) -> None:
        """Back the files up, restore them into a folder that is new, and continue there."""
        await self.close()
        copied = self.data_dir.with_name(f"{self.data_dir.name}+")
        backup(self.data_dir, copied.with_suffix(".backup"))
        restore(copied.with_suffix(".backup"), copied)
        self.data_dir = copied
        await self.open()

    def log(self, topic: str, partition: int = 0) -> PartitionLog:
        return self.engine.topics[topic].partitions[partition]


class ClockedStore(Store):
    """A store whose engine goes by a clock that the test sets (ms)."""

    def __init__(self, data_dir: Path, **settings: int) -> None:
        super().__init__(data_dir, **settings)
        self.now = NOW

    async def open(self) -> None:
        settings = StorageSettings(**self._settings)
        self.engine = SqliteEngine(self.data_dir, settings, clock=lambda: self.now)
        await self.engine.open()
        lend_template(self.data_dir)
