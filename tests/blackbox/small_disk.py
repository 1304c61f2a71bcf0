"""A file system of 64 MB that a test may fill: a tmpfs, which only root can mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE_BYTES = 64 << 20


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of SIZE_BYTES at `folder`; the test is skipped if it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def filler(disk: Path, size_bytes: int) -> Iterator[None]:
    """A file that takes up room while the block runs."""
    path = disk / "filler"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)
    try:
        yield
    finally:
        path.unlink()
