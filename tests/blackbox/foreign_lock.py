"""Another program's write transaction on a partition file, as somebody's shell may hold one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

PROGRAM = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], isolation_level=None).execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


class ForeignLock:
    """`with ForeignLock(path) as lock`: nothing commits to the file until the block or `release` ends it."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def release(self) -> None:
        self._process.communicate()

    def __enter__(self) -> Self:
        assert self._process.stdout.readline() == b"locked\n"
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()
