"""The manifest of a backup: what it holds, and whether it is complete. Written whole or not at all.

Owns the form of backup.json; knows no SQL and none of the copied files.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from takhin.copies.places import place_key
from takhin.disk.folder import sync_folder
from takhin.disk.identity import LogRow
from takhin.disk.layout import Layout, unfinished
from takhin.disk.plain import read_plain
from takhin.errors import CopyError

FORMAT = 1
BYTES_MAX = 256 << 20
"""About a million partitions."""


@dataclass(slots=True)
class Manifest:
    """What is in a backup. Times are ISO 8601 in UTC."""

    takhin: str
    sqlite: str
    schema: int
    source: str
    begun_at: str
    finished_at: str | None = None
    complete: bool = False
    topics: dict[str, int] = field(default_factory=dict)
    """The topics that were copied entirely, and their partition counts."""
    partitions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By "topic/partition": the fields of LogRow, and bytes."""
    left_out: list[str] = field(default_factory=list)
    """Topics that were deleted while they were copied."""

    def add(self, log: LogRow, size_bytes: int) -> None:
        self.partitions[place_key(log.topic, log.partition)] = {**asdict(log), "bytes": size_bytes}

    def log(self, topic: str, partition: int) -> LogRow | None:
        """The log that was copied, if it was."""
        found = self.partitions.get(place_key(topic, partition))
        return LogRow(**{name: found[name] for name in LogRow.__slots__}) if found else None

    def size_bytes(self) -> int:
        return sum(int(of["bytes"]) for of in self.partitions.values())

    def as_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Put it into the backup, durably."""
        path = Layout(folder).manifest
        part = unfinished(path)
        with part.open("w", encoding="utf-8") as file:
            file.write(self.as_json())
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        sync_folder(folder)


def load(folder: Path) -> Manifest | None:
    """The manifest of a backup; None for another folder. Raises CopyError if it cannot be read."""
    path = Layout(folder).manifest
    try:
        content = read_plain(path, BYTES_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CopyError(f"{path} cannot be read: {error.strerror}") from error
    try:
        found = json.loads(content)
        if (version := found.pop("format")) != FORMAT:
            raise CopyError(f"{path} has format {version!r}, this Takhin knows format {FORMAT}")
        manifest = Manifest(**found)
        for of in manifest.partitions.values():
            manifest.log(str(of["topic"]), int(of["partition"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CopyError(f"{path} is not the manifest of a backup: {error!r}") from error
    return manifest
