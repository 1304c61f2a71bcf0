"""The engine over SQLite: puts the parts of an open data folder together. Fulfils the contract's Engine.

Topics are kept by catalogue.py, group offsets by offsets.py, what runs by itself is in upkeep.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from takhin.clock import Clock
from takhin.disk import connection, native
from takhin.disk.folder import DataFolder
from takhin.disk.witness import Witness
from takhin.errors import StartupError
from takhin.meters import EngineMeters
from takhin.model import TopicConfig, TopicSpec
from takhin.settings import StorageSettings
from takhin.storage.contract import Capability, Topic
from takhin.storage.sources import SourceIndex
from takhin.storage.sqlite.admission import Admission
from takhin.storage.sqlite.catalogue import Catalogue
from takhin.storage.sqlite.hold import Hold
from takhin.storage.sqlite.offset_index import OffsetIndex
from takhin.storage.sqlite.offsets import SqliteOffsets
from takhin.storage.sqlite.open_files import OpenFiles
from takhin.storage.sqlite.retention import Retention
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.space import DiskSpace
from takhin.storage.sqlite.threads import DiskThreads, Threads
from takhin.storage.sqlite.topics import SqliteTopic
from takhin.storage.sqlite.troubles import Troubles
from takhin.storage.sqlite.upkeep import Upkeep
from takhin.topic_configs import DEFAULTS


@dataclass(frozen=True, slots=True)
class Parts:
    """What an open engine is made of."""

    folder: DataFolder
    witness: Witness
    shared: Shared
    catalogue: Catalogue
    retention: Retention
    upkeep: Upkeep
    offsets: SqliteOffsets


class SqliteEngine:
    """Topics as folders, partitions as WAL-mode SQLite files."""

    def __init__(
        self,
        data_dir: Path,
        settings: StorageSettings,
        *,
        clock: Clock,
        topic_defaults: TopicConfig = DEFAULTS,
    ) -> None:
        """topic_defaults: the config of a topic that says nothing.

        Raises StartupError if storage.native wants what is not there.
        """
        self.native = native.is_chosen(settings.native)
        """True if records are stored and read by the native library."""
        self._data_dir = data_dir
        self._settings = settings
        self._clock = clock
        self._topic_defaults = topic_defaults
        self.meters = EngineMeters()
        self._troubles = Troubles()
        self._parts: Parts | None = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        every = frozenset(Capability)
        return every if self.native else every - {Capability.PACKED}

    @property
    def topics(self) -> Mapping[str, SqliteTopic]:
        return {} if self._parts is None else self._parts.catalogue.topics

    @property
    def offsets(self) -> SqliteOffsets:
        return self._opened.offsets

    @property
    def boot(self) -> int:
        return self._opened.witness.boot

    @property
    def troubles(self) -> Sequence[str]:
        return self._troubles.sentences

    def stats(self) -> Mapping[str, int]:
        shared, logs = self._opened.shared, self._opened.catalogue.logs()
        return {
            "partitions": len(logs),
            "open_files": len(shared.files),
            "queued_bytes": shared.admission.queued_bytes,
            "queue_waiters": shared.admission.waiters,
            "wal_bytes_left": sum(log.wal_bytes_left for log in logs),
            **shared.space.stats(),
        }

    async def open(self) -> None:
        connection.check_library()
        folder = DataFolder(self._data_dir)
        try:
            witness = Witness(folder.layout.witness, lock_changed_before=folder.lock_changed_before)
        except OSError as error:
            folder.close()
            raise StartupError(f"cannot use {folder.layout.witness}: {error.strerror}") from error
        self._parts = parts = self._assemble(folder, witness)
        try:
            parts.upkeep.begin(is_copy=witness.is_copy)
            await parts.catalogue.load()
            parts.catalogue.settle_witness()
            await parts.shared.space.look()
            parts.shared.space.warn_of_unfit()
        except BaseException:
            await self.close()
            raise
        parts.upkeep.start()

    def _assemble(self, folder: DataFolder, witness: Witness) -> Parts:
        settings, troubles = self._settings, self._troubles
        shared = Shared(
            settings,
            self._clock,
            Threads(DiskThreads("commit", settings.commit_threads), DiskThreads("checkpoint", 1)),
            OpenFiles(settings.open_partitions_max, cache_bytes_max=settings.page_cache_bytes_max),
            Admission(bytes_max=settings.queue_bytes_max, wait_ms_max=settings.queue_wait_ms_max),
            DiskSpace(folder.path, settings, troubles),
            troubles,
            SourceIndex(),
            self.meters,
            self._topic_defaults,
            self.native,
        )
        index = OffsetIndex()
        catalogue = Catalogue(shared, folder, witness, index)
        hold = Hold(folder.path, troubles, age_ms_max=settings.hold_age_ms_max)
        retention = Retention(shared, catalogue)
        upkeep = Upkeep(shared, catalogue, hold, retention)
        offsets = SqliteOffsets(catalogue, index, shared.sources)
        return Parts(folder, witness, shared, catalogue, retention, upkeep, offsets)

    async def close(self) -> None:
        parts = self._opened
        await parts.upkeep.stop()
        await parts.catalogue.settled()
        parts.upkeep.end_hold()
        parts.shared.space.close()  # trims that wait for its space, and the last checkpoints, have it now
        await parts.catalogue.close()
        parts.shared.threads.close()
        parts.witness.close()
        parts.folder.close()

    async def room(self) -> None:
        self._opened.shared.space.check()
        await self._opened.shared.admission.room()

    async def create_topic(self, spec: TopicSpec) -> SqliteTopic:
        return await self._opened.catalogue.create(spec)

    async def alter_topic(self, name: str, wanted: Callable[[Topic], TopicSpec]) -> SqliteTopic:
        return await self._opened.catalogue.alter(name, wanted)

    async def catalogue_changed(self, known: Mapping[str, Topic]) -> None:
        await self._opened.catalogue.changed(known)

    async def retain(self) -> None:
        await self._opened.retention.retain()

    async def delete_topic(self, name: str) -> None:
        await self._opened.catalogue.delete(name)

    @property
    def _opened(self) -> Parts:
        assert self._parts is not None, "the engine is not open"  # noqa: S101  see the contract
        return self._parts
