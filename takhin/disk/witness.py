"""The witness: what each log's file must hold at least, noted in a file of its own. Knows no SQL.

If a write-ahead log is damaged or gone, its log becomes shorter and nothing shows it: SQLite recovers what
comes before the damage. So each COMMIT is noted here too, after it is durable and before it is answered. The
note is not synced: it may lag behind its log, but must never be ahead of it. A start that finds a note ahead
of its log is refused.

    DATA/witness    a head, then 64 bytes for each partition

The head also has the number of this start, which consumer groups make their epochs of. It is here because the
head is written and synced at each start anyway.

Under a hold a copier may copy the witness later than the logs. So while a hold lasts, the head has the change
time of the folder's LOCK, which no copy shares. A witness whose noted time differs was copied from another
folder and is ignored. The head says for good that this folder was once such a copy: a log without a note has
the original's incarnation there, because it could not be opened before.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import structlog

from takhin.disk.inodes import inode
from takhin.disk.layout import Layout, unfinished
from takhin.disk.plain import open_plain, read_plain
from takhin.errors import CopyError

logger = structlog.get_logger()

HEAD = struct.Struct("<8sQQQ")
"""Magic; the change time of LOCK (ns) while held, else 0; 1 if the folder was once a copy, else 0; the number
of this start (0 in a file of an older Takhin)."""
MAGIC = b"takhin\x00\x01"

BOOTS_MAX = (1 << 30) - 1
"""More than any folder will see: a larger number is damage. Epochs of consumer groups are 2^32 times it."""

SLOT = struct.Struct("<I16sIQQ")
"""CRC-32 of the rest; topic id, partition, commits, end offset."""
SLOT_BYTES = 64
"""A disk's sector is a multiple of it, so a power cut leaves either the old slot or the new one."""

PARTITIONS_MAX = 1 << 20
"""More than any broker can serve."""
BYTES_MAX = SLOT_BYTES * (PARTITIONS_MAX + 1)
"""A larger file is no witness."""

Key = tuple[bytes, int]


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a log has come: the number of its commits, and its end offset."""

    commits: int
    end_offset: int

    def missing(self, noted: Mark) -> str | None:
        """What a log that ends here has lost, as a clause, if the witness has noted `noted`; else None."""
        if self.commits >= noted.commits:
            return None
        if self.end_offset < noted.end_offset:
            return f"the acknowledged offsets {self.end_offset} to {noted.end_offset - 1} are missing"
        return f"its last {noted.commits - self.commits} acknowledged changes are missing"


def is_own(head: bytes, lock_changed: int) -> bool | None:
    """True: written for this folder. False: copied from a held one. None: not a witness file.

    lock_changed: the change time of this folder's LOCK (ns).
    """
    magic, held, _, _ = _head(head)
    return None if magic != MAGIC else held in (0, lock_changed)


def _head(content: bytes) -> tuple[bytes, int, int, int]:
    magic, held, copied, boots = HEAD.unpack(content[: HEAD.size].ljust(HEAD.size, b"\0"))
    return magic, held, copied, boots


def noted_in(content: bytes) -> Iterator[tuple[int, tuple[Key, Mark] | None]]:
    """(position, note) of each slot. The note is None if the slot is empty or its checksum is wrong."""
    for at in range(SLOT_BYTES, len(content) // SLOT_BYTES * SLOT_BYTES, SLOT_BYTES):
        slot = content[at : at + SLOT.size]
        crc, topic_id, partition, commits, end_offset = SLOT.unpack(slot)
        matches = crc == zlib.crc32(slot[4:])
        yield at, ((topic_id, partition), Mark(commits, end_offset)) if matches else None


class Notes:
    """What a folder's witness says of each log, read by another process without changing it."""

    def __init__(self, data_dir: Path) -> None:
        """A folder without a witness has no notes, nor has one with a copied witness. Raises CopyError."""
        layout = Layout(data_dir)
        self._marks: dict[Key, Mark] = {}
        try:
            content = read_plain(layout.witness, BYTES_MAX)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CopyError(f"{layout.witness} cannot be read: {error.strerror}") from error
        if is_own(content, _changed(layout.lock)):
            self._marks = dict(noted for _, noted in noted_in(content) if noted is not None)

    def of(self, topic_id: str, partition: int) -> Mark | None:
        """The note of a log, if there is one."""
        try:
            return self._marks.get((UUID(topic_id).bytes, partition))
        except ValueError:
            return None


def _changed(path: Path) -> int:
    """When a file was last changed (ns); 0 if there is none."""
    try:
        return path.stat().st_ctime_ns
    except FileNotFoundError:
        return 0


@dataclass(slots=True)
class Slot:
    """One partition's place in the witness."""

    mark: Mark | None
    """What was noted before this start; None if nothing was, or nothing that can be believed."""
    _descriptor: int
    _at: int
    _key: Key

    def note(self, mark: Mark) -> None:
        """Note what is durable now. Called on commit threads, for each log by one at a time."""
        noted = SLOT.pack(0, *self._key, mark.commits, mark.end_offset)[4:]
        os.pwrite(self._descriptor, struct.pack("<I", zlib.crc32(noted)) + noted, self._at)


class Witness:
    """All slots of a data folder."""

    def __init__(self, path: Path, *, lock_changed_before: int) -> None:
        """Open the file, or make it. Raises OSError.

        lock_changed_before: the change time of LOCK (ns) before this start wrote to it.
        """
        self._path = path
        self._descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
        if os.fstat(self._descriptor).st_size > BYTES_MAX:
            os.close(self._descriptor)
            raise OSError(errno.EFBIG, f"it has more than {BYTES_MAX} bytes", str(path))
        self._inode = inode(path)
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        self.is_copy = is_own(content, lock_changed_before) is False
        """True if this folder was copied from another one during a hold, and not served since."""
        magic, _, copied, boots = _head(content)
        self.was_copy = self.is_copy or (magic == MAGIC and copied == 1)
        """True if it is or was one: a log without a note needs an incarnation of its own."""
        self.boot = boots % BOOTS_MAX + 1 if magic == MAGIC else 1
        """Larger at each start. It is on disk when the broker serves, in a copy from `settle` on.

        An older copy that is put back, and a folder without its witness, begin at a smaller number. What a
        number may be used for has to bear that: see takhin/groups/coordinator.py.
        """
        self._marks: dict[Key, tuple[int, Mark | None]] = {}
        self._free: list[int] = []
        self._end = max(SLOT_BYTES, len(content) // SLOT_BYTES * SLOT_BYTES)
        for at, noted in noted_in(content):
            if noted is not None and not self.is_copy:
                self._marks[noted[0]] = at, noted[1]
                continue
            if noted is None and any(content[at : at + SLOT.size]):
                logger.warning("witness_unreadable", position=at, reason="its checksum is wrong; ignored")
            self._free.append(at)
        if self.is_copy:  # it stays one until its logs have been opened once: see `settle`
            os.pwrite(self._descriptor, bytes(self._end - SLOT_BYTES), SLOT_BYTES)
        else:  # LOCK has changed, so a noted time of it would no longer say that the notes are ours
            self.hold(0)

    def close(self) -> None:
        os.close(self._descriptor)

    def keep(self) -> bool:
        """Put the file back, with its notes, if it was removed or replaced: True then. Raises OSError.

        A commit may note itself meanwhile; that note is lost, which is allowed.
        """
        if inode(self._path) == self._inode:
            return False
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        part = unfinished(self._path)
        descriptor = open_plain(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.pwrite(descriptor, content, 0)
        os.fsync(descriptor)
        part.rename(self._path)
        os.dup2(descriptor, self._descriptor, inheritable=False)  # all slots write through this number
        os.close(descriptor)
        self._inode = inode(self._path)
        return True

    def slot(self, topic_id: str, partition: int) -> Slot:
        """The place of a partition, a new one if it has none. Raises OSError if the disk is full."""
        key = (UUID(topic_id).bytes, partition)
        at, mark = self._marks.get(key) or (self._take(), None)
        self._marks[key] = at, mark
        return Slot(mark, self._descriptor, at, key)

    def noted(self, topic_id: str, partition: int) -> Mark | None:
        """What is noted of a log, if anything is; it gets no place for that."""
        try:
            return self._marks.get((UUID(topic_id).bytes, partition), (0, None))[1]
        except ValueError:
            return None

    def remember(self, topic_id: str, partition: int, mark: Mark) -> None:
        """A log was closed with this mark: it must hold that much when it is opened again."""
        key = (UUID(topic_id).bytes, partition)
        if key in self._marks:
            self._marks[key] = self._marks[key][0], mark

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        at = self._end
        os.pwrite(self._descriptor, bytes(SLOT_BYTES), at)
        self._end += SLOT_BYTES
        return at

    def forget(self, topic_id: str) -> None:
        """Free the slots of a topic that was deleted. Raises OSError."""
        id_bytes = UUID(topic_id).bytes
        for key in [key for key in self._marks if key[0] == id_bytes]:
            at, _ = self._marks.pop(key)
            os.pwrite(self._descriptor, bytes(SLOT_BYTES), at)
            self._free.append(at)

    def hold(self, lock_changed: int) -> None:
        """Note the change time of LOCK (ns) for as long as copies are made; 0 ends that. Raises OSError."""
        os.pwrite(self._descriptor, HEAD.pack(MAGIC, lock_changed, self.was_copy, self.boot), 0)
        os.fsync(self._descriptor)  # the time of LOCK itself may be on disk: the two must agree

    def settle(self, lock_changed: int) -> None:
        """What can be opened is open, in a copy under new incarnations: the witness is this folder's.

        lock_changed: as for `hold`. Raises OSError.
        """
        self.is_copy = False
        self.hold(lock_changed)
