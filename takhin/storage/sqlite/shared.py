"""What all partitions of an engine share, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from takhin.clock import Clock
from takhin.meters import EngineMeters
from takhin.model import TopicConfig
from takhin.settings import StorageSettings
from takhin.storage.sources import SourceIndex
from takhin.storage.sqlite.admission import Admission
from takhin.storage.sqlite.open_files import OpenFiles
from takhin.storage.sqlite.space import DiskSpace
from takhin.storage.sqlite.threads import Threads
from takhin.storage.sqlite.troubles import Troubles


@dataclass(frozen=True, slots=True)
class Shared:
    """What all partitions of an engine share."""

    settings: StorageSettings
    clock: Clock
    threads: Threads
    files: OpenFiles
    admission: Admission
    space: DiskSpace
    troubles: Troubles
    sources: SourceIndex
    meters: EngineMeters
    topic_defaults: TopicConfig
    """The config of a topic that says nothing."""
    native: bool
    """True if SQLite has the functions of the native library."""
