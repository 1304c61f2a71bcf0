"""Who may read the data: decided once for all files and folders that a process makes, by its umask.

The umask reaches what SQLite and child processes make, too; a `-wal` and a `-shm` get the mode of their file.
Nothing that exists is changed.
"""

from __future__ import annotations

import os

UMASKS = {"owner": 0o077, "group": 0o027, "all": 0o022}
"""By the values of the setting storage.readers. Only the owner ever writes."""


def limit_readers(readers: str) -> None:
    """Let these alone read what this process makes from now on."""
    os.umask(UMASKS[readers])
