"""The schema's version: builds new files, brings old ones up to date, refuses foreign and newer ones.

The migrations load the standard library's SQLite, so they run in a child process, on files that no
connection of ours has open. Files that have checksums are upgraded by the connection that opens them. Knows
no table; the statements of an upgrade are in schema/upgrades.py.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import apsw

from takhin.disk.connection import open_beside
from takhin.disk.header import HeaderError, NewerVersionError, checked_header
from takhin.disk.tables import tables_fault
from takhin.errors import StartupError
from takhin.schema import VERSION
from takhin.schema.checksums import SINCE_VERSION
from takhin.schema.upgrades import UPGRADES

PRODUCERS_SINCE = 3
"""The schema version that first had producer_batches."""
LOST_SINCE = 4
"""The schema version that first had lost_offsets."""
TAILS_SINCE = 5
"""The schema version that first had zero_tails."""
COMPACTION_SINCE = 6
"""The schema version that first had compactions and compaction_history."""
SOURCES_SINCE = 7
"""The schema version that first had sources."""


def build(*paths: Path) -> None:
    """Make or migrate closed files. Raises OSError if the child process fails, on a full disk for example."""
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


def is_newer(error: BaseException) -> bool:
    """True for an error of `check` that says that a later Takhin wrote the file."""
    return isinstance(error.__cause__, NewerVersionError)


def migrate(*paths: Path) -> None:
    """Bring closed files of version 1 to VERSION. The child process would run whatever is in them.

    Raises HeaderError for a file whose tables are not those of its version, OSError as `build` does,
    apsw.Error.
    """
    for path in paths:
        db = open_beside(path, immutable=False)
        try:
            altered = tables_fault(db)
        finally:
            db.close()
        if altered is not None:
            raise HeaderError(f"{path} {altered}")
    build(*paths)


def check(paths: Sequence[Path]) -> None:
    """Bring files of version 1 to VERSION, and refuse files that are not ours or of a later Takhin.

    A file that is refused is left as it was. Raises StartupError, which names the file.
    """
    older = []
    for path in paths:
        try:
            version = checked_header(path).user_version
        except HeaderError as error:
            raise StartupError(str(error)) from error
        except apsw.Error as error:
            # SQLite does not say why a file cannot be opened.
            reason = (
                error if os.access(path, os.R_OK | os.W_OK) else "the broker's user may not read or write it"
            )
            raise StartupError(f"{path} cannot be opened as a Takhin partition: {reason}") from error
        if version < SINCE_VERSION:
            older.append(path)
    if older:
        try:
            migrate(*older)
        except HeaderError as error:
            raise StartupError(str(error)) from error
        except (OSError, apsw.Error) as error:
            raise StartupError(f"cannot migrate to schema version {VERSION}: {error}") from error


def upgrade(connection: apsw.Connection) -> None:
    """Bring a file that has checksums to VERSION, in one transaction, through its only connection.

    Call it only after the log was checked: a damaged write-ahead log must not be written to.
    Raises apsw.Error.
    """
    version = connection.pragma("user_version")
    if version == VERSION:
        return
    with connection:
        for each in range(version + 1, VERSION + 1):
            for statement in UPGRADES[each]:
                connection.execute(statement)
        connection.pragma("user_version", VERSION)
