"""The disk under a data folder: how much is free, what file system it is, how long a sync takes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from takhin.disk.capacity import unfit
from takhin.disk.layout import Layout
from takhin.doctor.findings import Finding, Level, gb
from takhin.settings import Settings

NETWORK = {
    *("9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "lustre", "nfs"),
    *("nfs4", "smb3", "smbfs"),
}
FORGETFUL = {"tmpfs", "ramfs"}
WITHOUT_MODES = {"exfat", "fuseblk", "msdos", "ntfs", "ntfs3", "vfat"}
UNSYNCED = {"nobarrier", "barrier=0"}
"""Mount options under which a sync returns before the disk has the data."""
INODES_FEW = 1_000
FULL_BYTES = 1 << 20
"""With less a broker takes no records."""

MOUNTS = Path("/proc/self/mountinfo")
"""See proc(5)."""

WRITE_BYTES = 16 << 10
SYNCS = 20
SYNC_SECONDS_MAX = 2.0
"""No further sync is begun after that."""
SLOW_SYNC_MS = 10.0
"""The median above which every acknowledgement is slow: ordinary SSDs take 0.1 to 2 ms, turning disks 8."""


def space(settings: Settings) -> Iterator[Finding]:
    """How much is free. Raises OSError."""
    system = os.statvfs(settings.data_dir)
    free, size = system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize
    what = f"{gb(free)} of {gb(size)} are free"
    do = "free some, or trim topics (`takhin topics trim`) and set their retention: docs/keeping-data.md"
    if system.f_flag & os.ST_RDONLY:
        do = "mount it writable; if the system has made it read-only after an error, look at the kernel's log"
        yield Finding(Level.BAD, "space", "the file system is mounted read-only", do)
        return
    if free < FULL_BYTES:
        yield Finding(Level.BAD, "space", f"{what}: too little to take records", do)
    elif free < settings.storage.free_bytes_low:
        low = gb(settings.storage.free_bytes_low)
        yield Finding(Level.WARN, "space", f"{what}, less than storage.free_bytes_low ({low})", do)
    else:
        yield Finding(Level.OK, "space", what)
    for what, do in unfit(settings.storage, size) if size else ():
        yield Finding(Level.WARN, "space", what, do)
    if system.f_files and system.f_favail < INODES_FEW:
        do = "remove files: each open partition needs three"
        yield Finding(Level.WARN, "space", f"{system.f_favail} inodes are free", do)


class Mount(NamedTuple):
    """Where a file system is mounted, what kind it is, and its options."""

    point: str
    kind: str
    options: frozenset[str]


def mount_of(folder: Path) -> Mount | None:
    """The mount that a folder is in; None if the system does not say."""
    real = os.path.realpath(folder)
    try:
        lines = MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    found = None
    for line in lines:  # later mounts lie over earlier ones
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode("latin-1", "replace").decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and (found is None or len(point) >= len(found.point)):
            kind, _, options = right.split(maxsplit=2)
            found = Mount(point, kind, frozenset((*left.split()[5].split(","), *options.split(","))))
    return found


def file_system(settings: Settings) -> Iterator[Finding]:
    """What kind of file system it is."""
    mount = mount_of(settings.data_dir)
    if mount is None:
        return
    what = f"{mount.kind}, mounted at {mount.point}"
    if mount.kind in NETWORK:
        what += ": locks and shared memory end at this machine, and syncs are as good as the server's"
        do = "use a local disk, and `takhin backup` to the network"
    elif mount.kind in FORGETFUL:
        what += ": all records are lost when the machine stops"
        do = "use a disk, unless that is what you want"
    elif mount.kind in WITHOUT_MODES:
        what += ": it knows no permissions, so everyone who can read the disk can read the data"
        do = "use ext4 or XFS"
    elif mount.kind == "overlay":
        what += ": the container's own layer, which is lost with it"
        do = "mount a volume at the data folder"
    elif unsynced := mount.options & UNSYNCED:
        what += f" with {', '.join(sorted(unsynced))}: acknowledged records may be lost in a power cut"
        do = "mount it without these options"
    else:
        yield Finding(Level.OK, "file system", what)
        return
    yield Finding(Level.WARN, "file system", what, do)


def sync_time(settings: Settings) -> Iterator[Finding]:
    """How long a sync takes: on a file without a name, so that nothing can be left. Raises OSError."""
    times_ms: list[float] = []
    with tempfile.TemporaryFile(dir=_writable(settings.data_dir), buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, WRITE_BYTES * SYNCS)
        os.fsync(file.fileno())
        began = time.monotonic()
        while len(times_ms) < SYNCS and time.monotonic() - began < SYNC_SECONDS_MAX:
            before = time.monotonic()
            os.pwrite(file.fileno(), os.urandom(WRITE_BYTES), WRITE_BYTES * len(times_ms))
            os.fdatasync(file.fileno())
            times_ms.append((time.monotonic() - before) * 1_000)
    middle = median(times_ms)
    what = f"a sync of 16 KiB takes {middle:.2f} ms, at most {max(times_ms):.2f} ms in {len(times_ms)}"
    if middle < SLOW_SYNC_MS:
        yield Finding(Level.OK, "sync", what)
        return
    do = "each acknowledgement waits for one: use a faster disk, or send more records in a request"
    yield Finding(Level.WARN, "sync", what, do)


def _writable(data_dir: Path) -> Path:
    """The folder for files that are no partition's; the data folder itself before its first broker."""
    tmp = Layout(data_dir).tmp
    return tmp if tmp.is_dir() else data_dir
