"""backup.json, which says what a backup holds and whether it is complete. Written whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from takhin.disk.beside import Log
from takhin.disk.folder import sync_folder
from takhin.errors import CopyError

NAME = "backup.json"
FORMAT = 1


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
    """Topics that are in it whole, and their partition counts."""
    partitions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By "topic/partition": fields of Log, and bytes."""
    left_out: list[str] = field(default_factory=list)
    """Topics that were deleted while they were copied."""

    def add(self, log: Log, size_bytes: int) -> None:
        self.partitions[f"{log.topic}/{log.partition}"] = {**asdict(log), "bytes": size_bytes}

    def log(self, topic: str, partition: int) -> Log | None:
        """The log that was copied, if it was."""
        found = self.partitions.get(f"{topic}/{partition}")
        return Log(**{name: found[name] for name in Log.__slots__}) if found else None

    def size_bytes(self) -> int:
        return sum(int(of["bytes"]) for of in self.partitions.values())

    def as_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Put it into the backup, durably."""
        unfinished = folder / f"{NAME}.part"
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(self.as_json())
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(folder / NAME)
        sync_folder(folder)


def load(folder: Path) -> Manifest | None:
    """The manifest of a backup; None for a folder that is none. Raises CopyError if it cannot be read."""
    path = folder / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = json.loads(content)
        if (version := found.pop("format")) != FORMAT:
            raise CopyError(f"{path} has format {version!r}, this Takhin knows format {FORMAT}")
        manifest = Manifest(**found)
        for of in manifest.partitions.values():
            manifest.log(str(of["topic"]), int(of["partition"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CopyError(f"{path} is no manifest of a backup: {error!r}") from error
    return manifest
