"""What a running process takes of the machine, by its pid, as Linux tells it under /proc."""

from __future__ import annotations

import os
import re
from pathlib import Path

KIB = 1_024
UTIME, STIME = 11, 12
"""Places in /proc/PID/stat (proc(5)), counted from behind the command, which may hold spaces."""


def rss_bytes(pid: int) -> int:
    """Memory that is resident now."""
    return _status(pid, "VmRSS")


def peak_rss_bytes(pid: int) -> int:
    """The most that has ever been resident."""
    return _status(pid, "VmHWM")


def cpu_seconds(pid: int) -> float:
    """CPU time of all its threads since it began, its own and the kernel's for it; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[UTIME]) + int(fields[STIME])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    """How many files, sockets and the like it has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _status(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/{pid}/status has no {name}")
    return int(found[1]) * KIB
