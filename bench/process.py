"""What a running process uses, looked up by its pid in Linux's /proc."""

from __future__ import annotations

import os
import re
from pathlib import Path

KIB = 1_024
UTIME, STIME = 11, 12
"""Positions in /proc/PID/stat (proc(5)), counted from behind the command, which may contain spaces."""


def rss_bytes(pid: int) -> int:
    """Memory that is resident now."""
    return _status(pid, "VmRSS")


def peak_rss_bytes(pid: int) -> int:
    """The peak of resident memory."""
    return _status(pid, "VmHWM")


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads since the process began, in user and kernel mode; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[UTIME]) + int(fields[STIME])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    """The number of open files, sockets and other descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _status(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/{pid}/status has no {name}")
    return int(found[1]) * KIB
