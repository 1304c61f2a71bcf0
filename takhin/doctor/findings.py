"""What an examination says: findings, each with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

SHOWN_MAX = 3
"""How many of many alike are named."""


class Level(IntEnum):
    """How bad a finding is; the command's exit code is that of the worst one."""

    OK = 0
    WARN = 1
    BAD = 2


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Level
    about: str
    """One word for scripts: space, clock, …"""
    what: str
    do: str = ""
    """What to do about it; nothing for what is well."""


def some(names: Sequence[object], noun: str) -> str:
    """How many there are, and which: 5 files (a, b, c, …)."""
    first = [text if (text := str(name)).isprintable() else ascii(text) for name in names[:SHOWN_MAX]]
    named = ", ".join(first) + (", …" if len(names) > SHOWN_MAX else "")
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({named})"


def gb(size_bytes: float) -> str:
    """A size for people: 1.5 GB, 20.0 MB."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
