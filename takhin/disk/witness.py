"""The witness: what each log's file must hold at least, noted in a file of its own. Knows no SQL.

A write-ahead log that is damaged or gone makes a log shorter without any sign: SQLite recovers what comes
before. So each COMMIT is noted here too, after it is durable and before it is answered. The note is not
synced, for it may lag behind its log, but never be ahead of it; a start that finds it ahead is refused.

    DATA/witness    a head, then 64 bytes for each partition

Under a hold a copier may copy the witness later than the logs. Then the head names the folder's LOCK by its
change time, which no copy shares: a copy's witness is told by that, and not believed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import structlog

log = structlog.get_logger()

HEAD = struct.Struct("<8sQ")
"""Magic; while held the change time of LOCK (ns), else 0."""
MAGIC = b"takhin\x00\x01"

SLOT = struct.Struct("<I16sIQQ")
"""CRC-32 of the rest; topic id, partition, commits, end offset."""
SLOT_BYTES = 64
"""Divides a disk's sector, so that a power cut leaves a slot as it was or as it is."""

Key = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a log has come: the number of its commits, and its end offset."""

    commits: int
    end_offset: int

    def missing(self, noted: Mark) -> str | None:
        """What a log that has come so far has lost, if the witness has noted `noted`."""
        if self.commits >= noted.commits:
            return None
        if self.end_offset < noted.end_offset:
            return f"the acknowledged offsets {self.end_offset} to {noted.end_offset - 1} are missing"
        return f"its last {noted.commits - self.commits} acknowledged changes are missing"


def told_by(head: bytes, lock_changed: int) -> bool | None:
    """Whether a witness is that of its own folder, whose LOCK was changed then (ns), or of the one it was
    copied from while that was held. None for what is no witness.
    """
    magic, held = HEAD.unpack(head[: HEAD.size].ljust(HEAD.size, b"\0"))
    return None if magic != MAGIC else held in (0, lock_changed)


def noted_in(content: bytes) -> Iterator[tuple[int, tuple[Key, Mark] | None]]:
    """Position and note of each slot; None where it is empty, or not to be believed."""
    for at in range(SLOT_BYTES, len(content) // SLOT_BYTES * SLOT_BYTES, SLOT_BYTES):
        slot = content[at : at + SLOT.size]
        crc, topic_id, partition, commits, end_offset = SLOT.unpack(slot)
        believed = crc == zlib.crc32(slot[4:])
        yield at, ((topic_id, partition), Mark(commits, end_offset)) if believed else None


@dataclass(slots=True)
class Slot:
    """One partition's place in the witness."""

    mark: Mark | None
    """What was noted before this start; None where there is nothing, or nothing to be believed."""
    _descriptor: int
    _at: int
    _key: Key

    def note(self, mark: Mark) -> None:
        """Note what is durable now. Called on committer threads, by one at a time for each log."""
        noted = SLOT.pack(0, *self._key, mark.commits, mark.end_offset)[4:]
        os.pwrite(self._descriptor, struct.pack("<I", zlib.crc32(noted)) + noted, self._at)


class Witness:
    """All slots of a data folder."""

    def __init__(self, path: Path, *, lock_changed_before: int) -> None:
        """Open the file, or make it. lock_changed_before: of LOCK (ns), before this start wrote to it.

        Raises OSError.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        self.is_copy = told_by(content, lock_changed_before) is False
        """Whether this folder was copied from another while that one was held."""
        self._marks: dict[Key, tuple[int, Mark]] = {}
        self._free: list[int] = []
        self._end = max(SLOT_BYTES, len(content) // SLOT_BYTES * SLOT_BYTES)
        for at, noted in noted_in(content):
            if noted is not None and not self.is_copy:
                self._marks[noted[0]] = at, noted[1]
                continue
            if noted is None and any(content[at : at + SLOT.size]):
                log.warning("witness_unreadable", position=at, reason="its checksum is wrong; not believed")
            self._free.append(at)
        if self.is_copy:  # it is one until all of its logs have a new incarnation: see `settle`
            os.pwrite(self._descriptor, bytes(self._end - SLOT_BYTES), SLOT_BYTES)
        else:  # LOCK has changed, so a time of it that is noted no longer says that the notes are ours
            self.hold(0)

    def close(self) -> None:
        os.close(self._descriptor)

    def slot(self, topic_id: str, partition: int) -> Slot:
        """The place of a partition, a new one if it has none. Raises OSError where the disk is full."""
        key = (UUID(topic_id).bytes, partition)
        at, mark = self._marks.get(key) or (self._take(), None)
        self._marks[key] = at, mark or Mark(0, 0)
        return Slot(mark, self._descriptor, at, key)

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        at = self._end
        os.pwrite(self._descriptor, bytes(SLOT_BYTES), at)
        self._end += SLOT_BYTES
        return at

    def forget(self, topic_id: str) -> None:
        """The topic is deleted: its slots may be used for others."""
        id_bytes = UUID(topic_id).bytes
        for key in [key for key in self._marks if key[0] == id_bytes]:
            at, _ = self._marks.pop(key)
            os.pwrite(self._descriptor, bytes(SLOT_BYTES), at)
            self._free.append(at)

    def hold(self, lock_changed: int) -> None:
        """Say whose the notes are, by the change time of LOCK (ns), while copies are made; 0 ends that."""
        os.pwrite(self._descriptor, HEAD.pack(MAGIC, lock_changed), 0)
        os.fsync(self._descriptor)  # LOCK's own time may be on disk: the two must not disagree

    def settle(self, lock_changed: int) -> None:
        """All logs are open, those of a copy under new incarnations. lock_changed: as for `hold`."""
        self.is_copy = False
        self.hold(lock_changed)
