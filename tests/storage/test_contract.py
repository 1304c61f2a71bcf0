"""Both engines pass the contract suite; the SQLite engine's files are checked after every close."""

from __future__ import annotations

from pathlib import Path

from lending import lend_template
from storage.support import check_files
from takhin.clock import Clock
from takhin.settings import StorageSettings
from takhin.storage.contract import Engine
from takhin.storage.memory import MemoryEngine
from takhin.storage.sqlite.engine import SqliteEngine
from takhin.testing.contract import EngineContract, clock


class TestMemoryEngine(EngineContract):
    def new_engine(self, folder: Path) -> Engine:
        return MemoryEngine()

    def forgetful_engine(self, folder: Path) -> Engine:
        return MemoryEngine(producers_max=3, sources_max=3)

    def clocked_engine(self, folder: Path, clock: Clock) -> Engine:
        return MemoryEngine(clock=clock)


class WithTemplate(SqliteEngine):
    """An engine with a ready template for new partition files, which takes 0.2 s to build."""

    def __init__(self, folder: Path, clock: Clock = clock, **settings: int) -> None:
        # Every wait here ends by itself; on a busy machine it may take longer than a broker allows.
        super().__init__(folder, StorageSettings(queue_wait_ms_max=20_000, **settings), clock=clock)
        self._folder_of_test = folder

    async def open(self) -> None:
        await super().open()
        lend_template(self._folder_of_test)


class TestSqliteEngine(EngineContract):
    """An engine with one open file: a second partition is opened only when the first was closed.

    The state machine and the black-box tests have as many open files as brokers do.
    """

    def new_engine(self, folder: Path) -> Engine:
        return WithTemplate(folder, open_partitions_max=1)

    def forgetful_engine(self, folder: Path) -> Engine:
        return WithTemplate(folder, producers_max=3, sources_max=3)

    def clocked_engine(self, folder: Path, clock: Clock) -> Engine:
        return WithTemplate(folder, clock, open_partitions_max=2)

    def check(self, folder: Path) -> None:
        check_files(folder)
