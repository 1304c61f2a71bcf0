"""The schema's version: builds new files, brings old ones up to date, refuses foreign and newer ones.

The migrations load the standard library's SQLite, so they run in a child process, on files that no
connection of ours has open.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import apsw

from takhin.errors import StartupError
from takhin.schema import APPLICATION_ID, VERSION
from takhin.schema.checksums import RESERVED_BYTES
from takhin.storage.connection import FileHeader, file_header


def build(*paths: Path) -> None:
    """Make or migrate closed files. Raises OSError if the child process fails (on a full disk, say)."""
    done = subprocess.run(  # noqa: S603  our own interpreter on our own module
        [sys.executable, "-P", "-m", "takhin.schema", *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        number = errno.ENOSPC if "full" in last_line else errno.EIO
        raise OSError(number, f"cannot build {paths[0]}: {last_line}")


def check(paths: Sequence[Path]) -> None:
    """Refuse files that are not ours or of a later Takhin, untouched; bring older ones to VERSION.

    Raises StartupError naming the file.
    """
    older = []
    for path in paths:
        try:
            header = file_header(path)
        except (apsw.Error, ValueError) as error:
            raise StartupError(f"{path} cannot be opened as a Takhin partition: {error}") from error
        if header.application_id != APPLICATION_ID:
            raise StartupError(
                f"{path} is not a Takhin partition: its application_id is {header.application_id:#x}, "
                f"not {APPLICATION_ID:#x}"
            )
        if header.user_version > VERSION:
            raise StartupError(
                f"{path} has schema version {header.user_version}, this Takhin knows versions up to "
                f"{VERSION}: use the newer Takhin that wrote it"
            )
        if header.user_version < VERSION:
            older.append(path)
        else:
            _check_whole(path, header)
    if older:
        try:
            build(*older)
        except OSError as error:
            raise StartupError(f"cannot migrate to schema version {VERSION}: {error}") from error


def _check_whole(path: Path, header: FileHeader) -> None:
    """Refuse a file that has visibly lost something. (What has not is told by checksums, when it is read.)"""
    if header.reserved_bytes != RESERVED_BYTES:
        raise StartupError(f"{path} is damaged: its header says that its pages have no checksums")
    wal = path.with_name(f"{path.name}-wal")  # where there is one, the rest of the file may be in there
    size_bytes = path.stat().st_size
    if size_bytes < header.size_bytes and not (wal.exists() and wal.stat().st_size):
        raise StartupError(
            f"{path} is cut short: it has {size_bytes} bytes, and its header says {header.size_bytes}"
        )
