"""Fixtures of the storage tests: every engine behind the contract, and one that reopens its files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storage.support import Store, check_files, clock, lend_template, spec, sqlite_engine
from takhin.storage.contract import Engine, PartitionLog
from takhin.storage.memory import MemoryEngine
from takhin.storage.sqlite.engine import SqliteEngine


@pytest.fixture
def moved() -> list[PartitionLog]:
    """The logs that `engine` reported to its end_moved, oldest first."""
    return []


@pytest.fixture(params=["memory", "sqlite"])
def unopened(request: pytest.FixtureRequest, tmp_path: Path, moved: list[PartitionLog]) -> Iterator[Engine]:
    """Each engine in turn. The test opens and closes it; the files it leaves are checked afterwards.

    SQLite keeps one file open at a time here: a second partition is opened only when the first was closed.
    The state machine and the black-box tests keep as many open as brokers do.
    """
    if request.param == "memory":
        yield MemoryEngine(clock=clock, end_moved=moved.append)
    else:
        yield sqlite_engine(tmp_path / "data", moved.append, open_partitions_max=1)
        check_files(tmp_path / "data")


@pytest.fixture
async def engine(unopened: Engine, tmp_path: Path) -> AsyncIterator[Engine]:
    """Each engine in turn, open."""
    await unopened.open()
    if isinstance(unopened, SqliteEngine):
        lend_template(tmp_path / "data")
    yield unopened
    await unopened.close()


@pytest.fixture
async def log(engine: Engine) -> PartitionLog:
    """The only partition of a new topic, of each engine in turn."""
    return (await engine.create_topic(spec("orders"))).partitions[0]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """The SQLite engine alone, where a test is about files or about opening them again."""
    opened = Store(tmp_path / "data")
    await opened.open()
    yield opened
    await opened.close()
