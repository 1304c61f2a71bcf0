"""The file of a Unix socket: whether its place is free, who may connect, and its end.

gRPC makes the file, and removes without a word any socket that it finds in its place.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from takhin.errors import StartupError

ANSWER_SECONDS_MAX = 1.0
"""How long a listener may take to accept. One that does not is as alive as one that does."""


@contextmanager
def free_place(path: Path, mode: int) -> Iterator[None]:
    """Within the block, a socket may be made at `path`. It gets its mode at the end.

    The socket of a program that has ended is removed; of two brokers that come at one time, one is refused.
    Raises StartupError, also if another program listens there, or if there is something else than a socket.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_left(path)
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "the broker may not write into its folder")
        yield
        path.chmod(mode)  # made with the broker's umask, it let nobody else write, hence connect
    except BlockingIOError as error:
        raise StartupError(f"cannot listen on unix:{path}: another process has locked its folder") from error
    except OSError as error:
        raise _unusable(path, error) from error
    finally:
        os.close(folder)


def _remove_left(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StartupError(f"cannot listen on unix:{path}: there is something that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_SECONDS_MAX)
        refused = probe.connect_ex(str(path))
    if refused == errno.ECONNREFUSED:  # by the system, because no program has it open
        path.unlink()
    elif refused in (0, errno.EAGAIN):  # it accepts, or has more waiting than it may
        raise StartupError(f"cannot listen on unix:{path}: another process listens there")
    elif refused != errno.ENOENT:
        raise OSError(refused, f"who listens there cannot be asked ({os.strerror(refused)})")


def _unusable(path: Path, error: OSError) -> StartupError:
    return StartupError(f"cannot listen on unix:{path}: {error.strerror}")
