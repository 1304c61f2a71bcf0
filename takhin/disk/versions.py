"""The schema's version: builds new files, brings old ones up to date, refuses foreign and newer ones.

The migrations load the standard library's SQLite, so they run in a child process, on files that no
connection of ours has open. Files that have checksums are upgraded by the connection that opens them.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import apsw

from takhin.disk.header import file_header, visible_loss
from takhin.errors import StartupError
from takhin.schema import APPLICATION_ID, VERSION
from takhin.schema.checksums import SINCE_VERSION
from takhin.schema.upgrades import UPGRADES


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
    """Refuse files that are not ours or of a later Takhin, untouched; bring those of version 1 to VERSION.

    Raises StartupError naming the file.
    """
    older = []
    for path in paths:
        try:
            header = file_header(path)
            loss = visible_loss(path, header)
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
        if loss is not None:
            raise StartupError(f"{path} {loss}")
        if header.user_version < SINCE_VERSION:
            older.append(path)
    if older:
        try:
            build(*older)
        except OSError as error:
            raise StartupError(f"cannot migrate to schema version {VERSION}: {error}") from error


def upgrade(connection: apsw.Connection) -> None:
    """Bring a file that has checksums to VERSION, in one transaction, through the one connection it has.

    Not before it is known that the log is whole: a damaged write-ahead log must not be written to.
    Raises apsw.Error.
    """
    version = connection.pragma("user_version")
    if version == VERSION:
        return
    with connection:
        for each in range(version + 1, VERSION + 1):
            connection.execute(UPGRADES[each])
        connection.pragma("user_version", VERSION)
