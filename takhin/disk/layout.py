"""Every name in a data folder and beside a partition's file. Opens nothing; knows no SQL."""

from __future__ import annotations

from pathlib import Path


def wal_of(path: Path) -> Path:
    """The write-ahead log beside a file, whether there is one or not."""
    return path.with_name(f"{path.name}-wal")


def wal_bytes(path: Path) -> int:
    """The size of the write-ahead log beside a file; 0 where there is none."""
    try:
        return wal_of(path).stat().st_size
    except FileNotFoundError:
        return 0


def shm_of(path: Path) -> Path:
    """The shared index of a file's write-ahead log."""
    return path.with_name(f"{path.name}-shm")
