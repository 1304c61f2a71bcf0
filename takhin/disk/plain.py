"""Opening files that somebody may have made to do harm: no FIFO holds us up, and none is read whole if large.

For the files of a data folder that are not a partition's; those are opened by SQLite, after `is_plain`.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def is_plain(path: Path) -> bool:
    """True unless the name is something else than a file: a FIFO, a device, a folder, or a link to one."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True


def open_plain(path: Path, flags: int, mode: int = 0o644) -> int:
    """A descriptor, as os.open gives one. Raises OSError, also if it is not a plain file; never waits."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    return descriptor


def read_plain(path: Path, bytes_max: int) -> bytes:
    """The content of a plain file. Raises OSError, also if it is larger than `bytes_max`."""
    descriptor = open_plain(path, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise OSError(errno.EFBIG, f"it has more than {bytes_max} bytes", str(path))
    return content
